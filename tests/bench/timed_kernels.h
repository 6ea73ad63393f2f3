// A table of ops with a clock around every entry.
#pragma once

#include "kernels/kernels.h"

namespace mneme::bench {

// Clock has static Begin(Stream&) and End(Stream&, const char* op). One table a Clock.
template <class Clock>
class TimedKernels {
 public:
  static Kernels Of(const Kernels& plain) {
    Kernels k = plain;
    Put<&Kernels::matmul>("matmul", k);
    Put<&Kernels::grouped_matmul>("grouped_matmul", k);
    Put<&Kernels::grouped_matmul_weight_grad>("grouped_matmul_weight_grad", k);
    Put<&Kernels::rms_norm>("rms_norm", k);
    Put<&Kernels::rms_norm_grad>("rms_norm_grad", k);
    Put<&Kernels::rope>("rope", k);
    Put<&Kernels::latent>("latent", k);
    Put<&Kernels::latent_grad>("latent_grad", k);
    Put<&Kernels::attention>("attention", k);
    Put<&Kernels::attention_grad>("attention_grad", k);
    Put<&Kernels::swiglu>("swiglu", k);
    Put<&Kernels::swiglu_grad>("swiglu_grad", k);
    Put<&Kernels::short_conv>("short_conv", k);
    Put<&Kernels::short_conv_grad>("short_conv_grad", k);
    Put<&Kernels::gather_rows>("gather_rows", k);
    Put<&Kernels::scatter_add_rows>("scatter_add_rows", k);
    Put<&Kernels::unique_ids>("unique_ids", k);
    Put<&Kernels::sum_unique>("sum_unique", k);
    Put<&Kernels::deal_rows>("deal_rows", k);
    Put<&Kernels::route>("route", k);
    Put<&Kernels::balance_loss>("balance_loss", k);
    Put<&Kernels::route_grad>("route_grad", k);
    Put<&Kernels::bias_update>("bias_update", k);
    Put<&Kernels::deal_tokens>("deal_tokens", k);
    Put<&Kernels::experts>("experts", k);
    Put<&Kernels::experts_grad>("experts_grad", k);
    Put<&Kernels::hyper_enter>("hyper_enter", k);
    Put<&Kernels::hyper_leave>("hyper_leave", k);
    Put<&Kernels::hyper_leave_enter>("hyper_leave_enter", k);
    Put<&Kernels::hyper_leave_grad>("hyper_leave_grad", k);
    Put<&Kernels::hyper_enter_grad>("hyper_enter_grad", k);
    Put<&Kernels::hyper_read>("hyper_read", k);
    Put<&Kernels::hyper_read_grad>("hyper_read_grad", k);
    Put<&Kernels::hyper_expand>("hyper_expand", k);
    Put<&Kernels::hyper_reduce>("hyper_reduce", k);
    Put<&Kernels::ngram_rows>("ngram_rows", k);
    Put<&Kernels::engram_gate>("engram_gate", k);
    Put<&Kernels::engram_gate_grad>("engram_gate_grad", k);
    Put<&Kernels::normal_rows>("normal_rows", k);
    Put<&Kernels::ngram_gather>("ngram_gather", k);
    Put<&Kernels::group_rows>("group_rows", k);
    Put<&Kernels::sum_groups>("sum_groups", k);
    Put<&Kernels::adam_groups>("adam_groups", k);
    Put<&Kernels::put_rows>("put_rows", k);
    Put<&Kernels::mark_rows>("mark_rows", k);
    Put<&Kernels::count_marks>("count_marks", k);
    Put<&Kernels::head_loss>("head_loss", k);
    Put<&Kernels::adamw>("adamw", k);
    Put<&Kernels::adam_rows>("adam_rows", k);
    Put<&Kernels::muon_momentum>("muon_momentum", k);
    Put<&Kernels::newton_schulz>("newton_schulz", k);
    Put<&Kernels::muon_apply>("muon_apply", k);
    Put<&Kernels::sum_squares>("sum_squares", k);
    Put<&Kernels::sum>("sum", k);
    Put<&Kernels::step_decision>("step_decision", k);
    Put<&Kernels::load_imbalance>("load_imbalance", k);
    Put<&Kernels::fill>("fill", k);
    Put<&Kernels::copy>("copy", k);
    Put<&Kernels::cast>("cast", k);
    Put<&Kernels::add>("add", k);
    Put<&Kernels::scale>("scale", k);
    return k;
  }

 private:
  template <auto Field>
  struct Entry;
  template <class... Args, void (*Kernels::*Field)(Stream&, Args...)>
  struct Entry<Field> {
    static inline void (*plain)(Stream&, Args...) = nullptr;
    static inline const char* name = nullptr;
    static void Call(Stream& stream, Args... args) {
      Clock::Begin(stream);
      plain(stream, args...);
      Clock::End(stream, name);
    }
  };

  template <auto Field>
  static void Put(const char* name, Kernels& kernels) {
    Entry<Field>::plain = kernels.*Field;
    Entry<Field>::name = name;
    kernels.*Field = Entry<Field>::Call;
  }
};

}  // namespace mneme::bench
