#include "launch/help.h"

namespace mneme {
namespace {

struct Verb {
  const char* name;
  const char* line;
  const char* help;
};

constexpr Verb kVerbs[] = {
    {"prepare", "text or token ids to a corpus",
     "Makes a corpus: shards of token ids with document boundaries, for train and evaluate.\n\n"
     "Examples:\n"
     "  mneme prepare --input novel.txt --output corpora/novel --blank-lines 2 --held-out 0.05\n"
     "  mneme prepare --input texts/ more.jsonl --output corpora/mixed\n"
     "  mneme prepare --input ids.npy --eos 1 --pad 2 --canonical map.npy --text-bytes 81234567 "
     "\\\n"
     "      --tokenizer-json tokenizer.json --output corpora/bpe\n"},
    {"train", "trains a run, or goes on with it",
     "Trains the run that a config describes. Typed again it goes on where the run stands, and "
     "ends at\n"
     "once if the run is finished.\n\n"
     "Examples:\n"
     "  mneme train configs/runs/tiny.yaml data.train=corpora/novel/train\n"
     "  mpirun -n 4 mneme train configs/runs/tiny.yaml train.steps=200 parallel.expert=4\n"
     "  mneme train configs/runs/engram_100b_rows.yaml --dry-run --world-size 32\n"
     "  mneme train a.yaml b.yaml device=gpu\n\n"
     "SIGUSR1, SIGTERM, SIGINT (Ctrl-C) or SIGHUP: save and stop with exit code 75; a second "
     "SIGTERM\n"
     "or SIGINT leaves at once. SIGUSR2: save and go on.\n\n"
     "Several configs are trained side by side in one process, each as it would be alone.\n"
     "What each says goes to its run.log, or to standard error behind its config's name; "
     "as it ends,\n"
     "standard output gets a line of JSON: config, exit_code, no_room, message. A run that the "
     "device has no room\n"
     "for beside those before it is not begun (no_room, 75).\n"},
    {"evaluate", "held-out loss of a checkpoint",
     "Scores a checkpoint on held-out text: nats a token, bits a byte.\n\n"
     "Examples:\n"
     "  mneme evaluate runs/tiny --data corpora/novel/held_out\n"
     "  mneme evaluate runs/tiny --data corpora/novel/held_out --memory-off --ngrams 5 --json\n"
     "  mpirun -n 2 mneme evaluate runs/tiny/checkpoints/step-100 --data "
     "corpora/novel/held_out\n"},
    {"generate", "text from a checkpoint",
     "Goes on from a prompt. The same seed makes the same text.\n\n"
     "Examples:\n"
     "  mneme generate runs/tiny --prompt 'It was a ' --tokens 200\n"
     "  mneme generate runs/tiny --prompt 'Mr. ' --gates --temperature 0.7 --seed 3\n"
     "  mneme generate runs/tiny --prompt 'Once' --top-p 0.9 --json\n"},
    {"analyze", "where the gates of the memory open",
     "Says which n-grams of a text open the memory's gates widest, and shows text shaded by "
     "them.\n\n"
     "Examples:\n"
     "  mneme analyze runs/tiny --data corpora/novel/held_out\n"
     "  mneme analyze runs/tiny --data corpora/novel/held_out --order 4 --count 20 --json\n"
     "  NO_COLOR=1 mneme analyze runs/tiny --data corpora/novel/held_out --shown 800\n"},
    {"report", "loss curve and results of a run",
     "Draws the loss curve of a run in the terminal and as SVG, with its results.\n\n"
     "Examples:\n"
     "  mneme report runs/tiny\n"
     "  mneme report runs/tiny --svg loss.svg\n"
     "  mneme report runs/tiny --json\n"},
    {"convert", "weights to and from the Hugging Face layout",
     "Carries a model to the Hugging Face layout under DeepSeek-V3's names (transformers loads it, "
     "with "
     "the code\n"
     "written beside it where the model has a memory or hyper-connections), or imports one: "
     "DeepSeek-V2 "
     "and V3 in\n"
     "bf16, float or FP8. Bounded memory; killed, the same command goes on where it was. Every "
     "conversion writes\n"
     "certificate.json: what became of each tensor, checksums of both sides, the difference of "
     "logits.\n\n"
     "Examples:\n"
     "  mneme convert --from runs/tiny --to export/tiny --format huggingface\n"
     "  mneme convert --from runs/tiny/checkpoints/step-100 --to export/f32 --format huggingface "
     "--dtype f32\n"
     "  mneme convert --from DeepSeek-V2-Lite --to imported/lite --format mneme\n"
     "  mneme convert --from imported/lite --to with_memory --format mneme --add-engram "
     "memory.yaml\n"},
    {"inspect", "what a checkpoint or a file of weights holds; how two differ",
     "Lists tensors with dtype, shape, size, norm, range and numbers that are not finite, and what "
     "is known\n"
     "beside them (step, tokens, digests, config, where it came from); or says how two differ, "
     "tensor by tensor.\n"
     "Checksums are verified first.\n\n"
     "Examples:\n"
     "  mneme inspect runs/tiny\n"
     "  mneme inspect runs/tiny/checkpoints/step-50 runs/tiny/checkpoints/step-100\n"
     "  mneme inspect model/model-00001-of-00002.safetensors --matching experts.0 --json\n"},
    {"plan", "what a run will take: memory, time, what breaks first",
     "Says what a run will take before it is run; needs neither its data nor its device. "
     "Parameters "
     "by\n"
     "group, memory of a rank by owner against the device, seconds of a step by kind of work from "
     "rates\n"
     "measured on the device, checkpoints, total time, the first limit that breaks and the "
     "smallest "
     "change\n"
     "that mends it.\n\n"
     "Examples:\n"
     "  mneme plan configs/models/engram_27b.yaml --ranks 4 --device h200 train.precision=bf16\n"
     "  mneme plan configs/models/moe_335m.yaml --device h100 train.precision=bf16 --json\n"
     "  mneme plan configs/runs/tiny.yaml model.vocab_size=258 --threads 2\n"},
    {"sweep", "many runs, and the curve of loss over the share of experts through them",
     "Runs every cell that a sweep file describes and fits the curve of loss over rho, the share "
     "of the sparse\n"
     "parameters given to experts. Typed again it goes on; typed many times at once, on any "
     "machines that share\n"
     "the folder, the workers divide the cells among them, and what a dead one leaves goes on "
     "elsewhere.\n"
     "--fit reads cells from a file instead: JSONL or CSV with rho, seed and validation_loss (or "
     "val).\n"
     "A minimum is claimed only where its interval lies inside the range and no curve that only "
     "falls or only\n"
     "rises explains the cells (docs/sweeps.md).\n\n"
     "Examples:\n"
     "  mneme sweep configs/sweeps/paper_2e20.yaml --dry-run\n"
     "  mpirun -n 2 mneme sweep configs/sweeps/demo.yaml\n"
     "  mneme sweep configs/sweeps/demo.yaml --status\n"
     "  mneme sweep configs/sweeps/demo.yaml --bundle demo_results\n"
     "  mneme sweep --fit cells.csv --level 0.95 --exclude rho=0.05 --report curve.html\n"
     "  mneme sweep --fit cells.jsonl --coordinate log_rho --json --report curve/\n"},
    {"config", "every key; what a config comes to",
     "schema prints every key with type, default and meaning (docs/configuration.md).\n"
     "from-hf CONFIG_JSON maps every key of a DeepSeek-V2 or V3 configuration, or refuses it by "
     "name.\n"
     "resolve FILE prints the whole config that a run would have, and its parameters: total, "
     "active, sparse\n"
     "and table, as the paper counts (one vocabulary matrix in the total, none in the active) and "
     "plainly\n"
     "(everything that is trained), and FLOPs per token.\n\n"
     "Examples:\n"
     "  mneme config schema\n"
     "  mneme config resolve configs/models/engram_27b.yaml --json\n"
     "  mneme config resolve configs/runs/tiny.yaml model.layers=6\n"
     "  mneme config from-hf DeepSeek-V2-Lite/config.json\n"},
};

}  // namespace

std::vector<std::string> Verbs() {
  std::vector<std::string> names;
  for (const Verb& verb : kVerbs) names.emplace_back(verb.name);
  return names;
}

std::string GeneralHelp() {
  std::string out =
      "mneme trains language models with a memory: MoE transformers with Engram tables, on one "
      "rank or many.\n\n"
      "Usage: mneme VERB ... | mneme VERB --help | mneme --version\n\n"
      "Examples:\n"
      "  mneme prepare --input novel.txt --output corpora/novel --blank-lines 2 --held-out 0.05\n"
      "  mpirun -n 2 mneme train configs/runs/tiny.yaml data.train=corpora/novel/train\n"
      "  mneme generate runs/tiny --prompt 'It was a ' --gates\n\nVerbs:\n";
  for (const Verb& verb : kVerbs) {
    const std::string name = verb.name;
    out += "  " + name + std::string(10 - name.size(), ' ') + verb.line + "\n";
  }
  out +=
      "  help      this page; help VERB: one verb's\n\n"
      "Environment:\n"
      "  OMP_NUM_THREADS  threads a rank; default: one under mpirun, all cores alone\n"
      "  OPENBLAS_CORETYPE  kernels of the matrix library; default: what suits the processor\n"
      "  NO_COLOR         no colour in shaded text\n\n";
  return out + kExitCodes + "\n";
}

std::string VerbHelp(const std::string& verb) {
  for (const Verb& each : kVerbs) {
    if (verb == each.name) return each.help;
  }
  return "";
}

}  // namespace mneme
