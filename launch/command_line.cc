// The only file that knows CLI11.
#include <CLI/CLI.hpp>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>

#include "configs/device_rates.h"
#include "configs/text.h"
#include "configs/validate.h"
#include "launch/arguments.h"
#include "launch/help.h"
#include "launch/verbs.h"

namespace mneme {
namespace {

// Fewer would make a folder of thousands of files.
constexpr int64_t kFewestShardTokens = 65536;

Arguments Answer(const std::string& text, int exit_code) {
  Arguments arguments;
  arguments.answer = text;
  arguments.exit_code = exit_code;
  return arguments;
}

// At least 0; not a number is neither.
const CLI::Validator kAmount(
    [](std::string& text) {
      const std::optional<double> value = ParseNumber(text);
      return value && *value >= 0.0 && *value <= std::numeric_limits<double>::max()
                 ? std::string()
                 : "'" + text + "' is no number of at least 0";
    },
    "FLOAT >= 0");

// Tokens of a sequence; 0 has a meaning of its own.
const CLI::Range kLength(int64_t{0}, kMostSequence);

// "--a.b=c" is the override "a.b=c": it keeps its place among those written without dashes.
// `device` says whether --device=... is one too.
std::string WithoutDashes(const std::string& text, bool device) {
  const size_t equals = text.find('=');
  if (text.rfind("--", 0) != 0 || equals == std::string::npos) return text;
  const std::string key = text.substr(2, equals - 2);
  const bool dotted =
      key.find('.') != std::string::npos || (device && key == "device") || key == "stages";
  return dotted ? text.substr(2) : text;
}

// CLI11 on one verb: the options, and the words without dashes in their order.
class VerbParser {
 public:
  VerbParser(const std::string& verb) : app_(VerbHelp(verb), "mneme " + verb), verb_(verb) {
    app_.footer(kExitCodes);
    app_.get_formatter()->column_width(34);
  }
  CLI::App& app() { return app_; }
  std::vector<std::string>& words() { return words_; }

  // Empty where the words could be read.
  std::optional<Arguments> Parse(const std::vector<std::string>& arguments) {
    if (auto answer = Empty(arguments)) return answer;
    std::vector<std::string> reversed;
    for (auto it = arguments.rbegin(); it != arguments.rend(); ++it)
      reversed.push_back(WithoutDashes(*it, verb_ != "plan"));
    try {
      app_.parse(reversed);
    } catch (const CLI::CallForHelp&) {
      return Answer(app_.help(), 0);
    } catch (const CLI::ExtrasError&) {
      return Answer("mneme " + verb_ + ": " + NotAnOption(arguments), 2);
    } catch (const CLI::ParseError& error) {
      return Answer("mneme " + verb_ + ": " + error.what() + "; see mneme help " + verb_, 2);
    }
    return std::nullopt;
  }

  void TakeWords(const std::string& name, const std::string& help) {
    app_.add_option(name, words_, help);
  }

  void AddJson(bool& json) { app_.add_flag("--json", json, "print the result as one JSON object"); }

  void AddModel(ModelArguments& model) {
    app_.add_option("checkpoint", model.checkpoint,
                    "a checkpoint, or the folder of a run: its newest whole one")
        ->required();
    app_.add_option("--expert", model.parallel.expert, "ranks that the experts are spread over");
    app_.add_option("--memory", model.parallel.memory,
                    "ranks that the Engram rows are spread over");
  }

 private:
  // No option and no path is empty: a variable of the shell was not set.
  std::optional<Arguments> Empty(const std::vector<std::string>& arguments) const {
    for (size_t i = 0; i < arguments.size(); ++i) {
      const std::string plain = WithoutDashes(arguments[i], verb_ != "plan");
      const bool option = plain.rfind("--", 0) == 0;
      if (!plain.empty() && !(option && plain.back() == '=')) continue;
      const std::string before = i > 0 ? " behind '" + arguments[i - 1] + "'" : "";
      return Answer("mneme " + verb_ + ": " +
                        (plain.empty() ? "an argument" + before : "'" + plain + "'") +
                        " is empty; see mneme help " + verb_,
                    2);
    }
    return std::nullopt;
  }

  std::string NotAnOption(const std::vector<std::string>& arguments) const {
    std::vector<std::string> known;
    for (const CLI::Option* option : app_.get_options()) {
      for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
    }
    for (const std::string& word : arguments) {
      const std::string name = word.substr(0, word.find('='));
      if (word.rfind("-", 0) != 0 || std::find(known.begin(), known.end(), name) != known.end())
        continue;
      return "unknown option " + name + "; nearest: " + Nearest(name, known) +
             " (overrides of the config are key=value)";
    }
    return "too many words; see mneme help " + verb_;
  }

  CLI::App app_;
  std::string verb_;
  std::vector<std::string> words_;
};

// Config files, wherever they stand, and overrides of all of them in their order.
std::optional<Arguments> SplitRuns(const std::string& verb, const std::vector<std::string>& words,
                                   std::vector<RunArguments>& runs) {
  std::vector<std::string> overrides;
  for (const std::string& word : words) {
    std::error_code error;
    const bool is_file =
        word.find('=') == std::string::npos || std::filesystem::is_regular_file(word, error);
    if (is_file) {
      runs.push_back({word, {}});
    } else {
      overrides.push_back(word);
    }
  }
  for (RunArguments& run : runs) {
    std::error_code error;
    run.overrides = overrides;
    if (runs.size() == 1 || std::filesystem::is_regular_file(run.config, error)) continue;
    return Answer("mneme " + verb + ": '" + run.config +
                      "' is neither an option nor key=value, and no file of that name is there",
                  2);
  }
  if (runs.empty()) {
    return Answer("mneme " + verb + ": names no config; try configs/" +
                      (verb == "sweep" ? "sweeps/demo" : "runs/tiny") + ".yaml, see mneme help " +
                      verb,
                  2);
  }
  return std::nullopt;
}

// The same for a verb that takes one.
std::optional<Arguments> SplitRun(const std::string& verb, const std::vector<std::string>& words,
                                  RunArguments& run) {
  std::vector<RunArguments> runs;
  if (auto answer = SplitRuns(verb, words, runs)) return answer;
  run = runs.front();
  if (runs.size() == 1) return std::nullopt;
  return Answer("mneme " + verb + ": '" + runs[1].config +
                    "' is neither an option nor key=value, and the config is " + run.config,
                2);
}

std::optional<Arguments> ParseTrain(VerbParser& parser, const std::vector<std::string>& rest,
                                    TrainArguments& train) {
  parser.TakeWords("config",
                   "a YAML file, or several to be trained side by side; then key=value overrides");
  parser.app().add_flag("--dry-run", train.dry_run,
                        "check everything and say what would be done; allocate and write nothing");
  parser.app()
      .add_option("--world-size", train.world_size, "with --dry-run: as if on so many ranks")
      ->check(CLI::PositiveNumber);
  parser.AddJson(train.json);
  if (auto answer = parser.Parse(rest)) return answer;
  if (train.world_size > 0 && !train.dry_run) {
    return Answer(
        "mneme train: --world-size goes with --dry-run; a run takes its ranks from mpirun -n", 2);
  }
  return SplitRuns("train", parser.words(), train.runs);
}

std::optional<Arguments> ParsePlan(VerbParser& parser, const std::vector<std::string>& rest,
                                   PlanArguments& plan) {
  CLI::App& app = parser.app();
  parser.TakeWords("config", "a YAML file, then key=value overrides");
  app.add_option("--ranks", plan.ranks, "as if on so many ranks")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--device", plan.device,
                 "rates and memory: " + Join(ShippedDevices(), ", ") + ", or a file of your own")
      ->capture_default_str();
  app.add_option("--threads", plan.threads, "of a rank on a CPU; 0: as it would be started")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--price", plan.price, "of a device and hour, in your money")->check(kAmount);
  parser.AddJson(plan.json);
  if (auto answer = parser.Parse(rest)) return answer;
  return SplitRun("plan", parser.words(), plan.run);
}

std::optional<Arguments> ParseEvaluate(VerbParser& parser, const std::vector<std::string>& rest,
                                       EvaluateArguments& evaluate) {
  CLI::App& app = parser.app();
  parser.AddModel(evaluate.model);
  app.add_option("--data", evaluate.data,
                 "prepared corpora to score; default: evaluate.sets of the run");
  app.add_option("--sequences", evaluate.sequences, "sequences of each, spread evenly; 0: all")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--micro-batch", evaluate.micro_batch,
                 "sequences that a rank computes at once; 0 chooses")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--sequence-length", evaluate.sequence_length,
                 "tokens of a sequence; default: the length it was trained at")
      ->check(kLength);
  app.add_option("--yarn-scale", evaluate.yarn_scale,
                 "rotary scaling for that length; 1: none; default: as it was trained")
      ->check(kAmount);
  app.add_flag("--by-position", evaluate.by_position,
               "with --json: also the mean loss at each position of a sequence");
  app.add_flag("--memory-off", evaluate.memory_off, "score once more with the memory switched off");
  app.add_option("--ngrams", evaluate.ngrams,
                 "also interpolated n-grams up to this order (byte vocabulary)")
      ->check(CLI::Range(0, 7));
  app.add_option("--ngrams-from", evaluate.ngrams_from,
                 "the corpus that they count; default: the run's first");
  parser.AddJson(evaluate.json);
  return parser.Parse(rest);
}

std::optional<Arguments> ParseGenerate(VerbParser& parser, const std::vector<std::string>& rest,
                                       GenerateArguments& generate) {
  CLI::App& app = parser.app();
  GenerateOptions& options = generate.options;
  parser.AddModel(generate.model);
  app.add_option("--prompt", generate.prompt, "text to go on from");
  app.add_option("--prompt-ids", generate.prompt_ids,
                 "the same as token ids, for corpora made from ids")
      ->delimiter(',');
  app.add_option("--tokens", options.tokens, "most tokens to make")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  app.add_option("--temperature", options.temperature, "0 takes the likeliest")
      ->capture_default_str()
      ->check(kAmount);
  app.add_option("--top-k", options.top_k, "draw among so many; 0: all")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  app.add_option("--top-p", options.top_p, "draw among the likeliest of this mass")
      ->capture_default_str()
      ->check(kAmount)
      ->check(CLI::Range(0.0, 1.0));
  app.add_option("--seed", options.seed, "the same seed makes the same text")
      ->capture_default_str();
  app.add_flag("--memory-off", options.memory_off, "with the memory switched off");
  app.add_flag("--gates", generate.gates, "shade the text by the memory's gates");
  parser.AddJson(generate.json);
  return parser.Parse(rest);
}

std::optional<Arguments> ParseAnalyze(VerbParser& parser, const std::vector<std::string>& rest,
                                      AnalyzeArguments& analyze) {
  CLI::App& app = parser.app();
  AnalyzeOptions& options = analyze.options;
  parser.AddModel(analyze.model);
  app.add_option("--data", analyze.data,
                 "a prepared corpus; default: the run's first held-out set");
  app.add_option("--order", options.order, "length of the n-grams; 0: the model's largest")
      ->capture_default_str()
      ->check(CLI::Range(0, 64));
  app.add_option("--least", options.least, "count n-grams that stand at least so often")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--count", options.count, "n-grams shown")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  app.add_option("--sequences", options.sequences, "sequences looked at, from the first; 0: all")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  app.add_option("--shown", analyze.shown, "tokens of shaded text")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  parser.AddJson(analyze.json);
  return parser.Parse(rest);
}

std::optional<Arguments> ParseReport(VerbParser& parser, const std::vector<std::string>& rest,
                                     ReportArguments& report) {
  parser.app().add_option("run", report.run, "the folder of a run")->required();
  parser.app().add_option("--svg", report.svg, "also write the loss curve to this file");
  parser.AddJson(report.json);
  return parser.Parse(rest);
}

// "rho=0.05" as an exclusion.
std::optional<Arguments> TakeExclusions(const std::vector<std::string>& words, FitConfig& config) {
  for (const std::string& word : words) {
    const size_t equals = word.find('=');
    if (equals == std::string::npos || equals == 0) {
      return Answer("mneme sweep: --exclude takes COLUMN=VALUE, not '" + word + "'", 2);
    }
    config.exclude.push_back(
        {word.substr(0, equals), word.substr(equals + 1), "--exclude of the command line"});
  }
  return std::nullopt;
}

std::optional<Arguments> ParseSweep(VerbParser& parser, const std::vector<std::string>& rest,
                                    SweepArguments& sweep) {
  CLI::App& app = parser.app();
  std::vector<std::string> exclude;
  parser.TakeWords("sweep", "a sweep file, then key=value overrides of it");
  CLI::Option* dry = app.add_flag("--dry-run", sweep.dry_run, "print the grid and write nothing");
  CLI::Option* status =
      app.add_flag("--status", sweep.status, "print what the cells are at and the time left");
  CLI::Option* merge = app.add_option("--merge", sweep.merge,
                                      "take over finished cells of this folder or bundle; may be "
                                      "repeated");
  CLI::Option* bundle =
      app.add_option("--bundle", sweep.bundle,
                     "pack cells, losses by document, fit and figures into this new folder");
  CLI::Option* verify = app.add_option(
      "--verify", sweep.verify, "instead of a sweep: check a packed folder and make its fit again");
  CLI::Option* fit = app.add_option("--fit", sweep.fit,
                                    "instead of a sweep: fit the cells of this file, JSONL or CSV");
  CLI::Option* report = app.add_option(
      "--report", sweep.report,
      "also write a report: an HTML file, its figures beside it as SVG and PNG; or a "
      "folder for them");
  app.add_option("--level", sweep.config.level, "of every interval")
      ->capture_default_str()
      ->needs(fit);
  app.add_option("--coordinate", sweep.config.coordinate, "of the quadratic: rho or log_rho")
      ->capture_default_str()
      ->check(CLI::IsMember({"rho", "log_rho"}))
      ->needs(fit);
  app.add_option("--baseline", sweep.config.baseline,
                 "gains are over the cells of this rho; the largest where none has it")
      ->capture_default_str()
      ->check(kAmount)
      ->needs(fit);
  app.add_option("--by", sweep.config.by,
                 "a column whose values have curves of their own and are compared; may be repeated")
      ->needs(fit);
  app.add_option("--levels", sweep.config.levels,
                 "a column whose values share one curve, each with its own level; may be repeated")
      ->needs(fit);
  app.add_option("--exclude", exclude, "leave out the cells with COLUMN=VALUE; may be repeated")
      ->needs(fit);
  // A word that would be passed over is refused.
  for (CLI::Option* other : {dry, status, merge, bundle, verify}) fit->excludes(other);
  for (CLI::Option* other : {dry, status, merge, bundle, report}) verify->excludes(other);
  for (CLI::Option* other : {status, merge, bundle, report}) dry->excludes(other);
  parser.AddJson(sweep.json);
  if (auto answer = parser.Parse(rest)) return answer;
  if (sweep.fit.empty() && sweep.verify.empty())
    return SplitRun("sweep", parser.words(), sweep.sweep);
  if (!parser.words().empty()) {
    return Answer("mneme sweep: --fit and --verify take what they name alone, not '" +
                      parser.words().front() + "' too",
                  2);
  }
  return TakeExclusions(exclude, sweep.config);
}

std::optional<Arguments> ParsePrepare(VerbParser& parser, const std::vector<std::string>& rest,
                                      PrepareArguments& prepare) {
  CLI::App& app = parser.app();
  PrepareOptions& options = prepare.options;
  app.add_option("--input", options.inputs, "text, *.jsonl, *.npy (token ids), or folders of texts")
      ->required();
  app.add_option("--output", options.output, "the folder to make")->required();
  app.add_option("--text-field", options.text_field, "of a JSON line")->capture_default_str();
  app.add_option("--blank-lines", options.blank_lines,
                 "a text document ends at so many blank lines; 0: a file is one")
      ->capture_default_str();
  app.add_option("--document-bytes", options.document_bytes,
                 "group blocks to documents of about this size")
      ->capture_default_str();
  app.add_option("--held-out", options.held_out,
                 "share of documents set aside: output/train and output/held_out")
      ->capture_default_str();
  app.add_option("--shard-tokens", options.shard_tokens, "tokens of a file, about")
      ->capture_default_str()
      ->check(CLI::Range(kFewestShardTokens, std::numeric_limits<int64_t>::max()));
  app.add_flag("--replace", options.replace,
               "put the new corpus in the place of another one; of nothing but a corpus");
  ExternalIds& ids = options.ids;
  const std::string group = "Token ids made elsewhere (.npy)";
  app.add_option("--eos", ids.eos, "the end-of-document id")->group(group);
  app.add_option("--bos", ids.bos, "the beginning-of-document id")->group(group);
  app.add_option("--pad", ids.pad, "the id that pads the memory's look-back")->group(group);
  app.add_option("--vocabulary", ids.vocabulary,
                 "ids are below it; default: the length of the canonical map")
      ->group(group);
  app.add_option("--canonical", ids.canonical, ".npy: raw id to canonical id; default: identity")
      ->group(group);
  app.add_option("--text-bytes", ids.text_bytes, "UTF-8 bytes that the ids stand for")
      ->group(group);
  app.add_option("--tokenizer-json", ids.tokenizer_json, "kept with the corpus and in checkpoints")
      ->group(group);
  parser.AddJson(prepare.json);
  return parser.Parse(rest);
}

std::optional<Arguments> ParseInspect(VerbParser& parser, const std::vector<std::string>& rest,
                                      InspectArguments& inspect) {
  CLI::App& app = parser.app();
  bool names_only = false;
  app.add_option("path", inspect.path,
                 "a checkpoint, a run, a .h5 or .safetensors file, a Hugging Face folder")
      ->required();
  app.add_option("other", inspect.other, "another one: print the differences instead");
  app.add_option("--matching", inspect.options.matching, "only tensors whose names contain this");
  app.add_flag("--config", inspect.config, "also every key of its config");
  app.add_flag("--moments", inspect.options.moments, "also what the optimizer keeps");
  app.add_flag("--names-only", names_only, "names and shapes; read no values");
  parser.AddJson(inspect.json);
  auto answer = parser.Parse(rest);
  inspect.options.statistics = !names_only;
  return answer;
}

std::optional<Arguments> ParseConvert(VerbParser& parser, const std::vector<std::string>& rest,
                                      ConvertArguments& convert) {
  CLI::App& app = parser.app();
  ConvertOptions& options = convert.options;
  bool no_logits = false;
  app.add_option("--from", options.from,
                 "a checkpoint or a run, or a folder in the Hugging Face layout")
      ->required();
  app.add_option("--to", options.to, "the folder to make")->required();
  app.add_option("--format", options.format, "of that folder: mneme (a checkpoint) or huggingface")
      ->required();
  app.add_option("--dtype", options.dtype, "of exported weights: bf16 or f32")
      ->capture_default_str();
  app.add_option("--file-bytes", options.file_bytes, "of a file of weights, about")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--vocabulary", options.vocabulary,
                 "a prepared corpus whose vocabulary an imported model takes");
  app.add_option("--tokenizer-json", options.tokenizer_json, "a file to go with exported weights");
  app.add_option("--add-engram", options.add_engram,
                 "a config whose model.engram the model gets, its logits unchanged; key=value "
                 "overrides go on top");
  parser.TakeWords("overrides", "with --add-engram: key=value");
  app.add_flag("--replace", options.replace,
               "put the new folder in the place of another conversion's; of nothing else");
  app.add_flag("--no-logits", no_logits, "do not run the model on both sides");
  parser.AddJson(convert.json);
  auto answer = parser.Parse(rest);
  options.logits = !no_logits;
  options.overrides = parser.words();
  if (!answer && !options.overrides.empty() && options.add_engram.empty()) {
    return Answer("mneme convert: '" + options.overrides.front() +
                      "' goes with --add-engram only; see mneme help convert",
                  2);
  }
  return answer;
}

std::optional<Arguments> ParseConfigVerb(VerbParser& parser, const std::vector<std::string>& rest,
                                         ConfigArguments& config) {
  parser.TakeWords("what", "schema, resolve FILE [key=value]..., or from-hf CONFIG_JSON");
  parser.AddJson(config.json);
  if (auto answer = parser.Parse(rest)) return answer;
  std::vector<std::string> words = parser.words();
  const std::string what = words.empty() ? "" : words.front();
  const std::vector<std::string> known = {"schema", "resolve", "from-hf"};
  if (std::find(known.begin(), known.end(), what) == known.end()) {
    return Answer("mneme config: '" + what +
                      "' is neither schema, resolve nor from-hf; nearest: " + Nearest(what, known),
                  2);
  }
  words.erase(words.begin());
  config.schema = what == "schema";
  if (what == "resolve") return SplitRun("config resolve", words, config.run);
  if (what == "from-hf") {
    if (words.size() != 1) return Answer("mneme config from-hf takes one file, a config.json", 2);
    config.foreign = words[0];
    return std::nullopt;
  }
  return words.empty() ? std::optional<Arguments>()
                       : Answer("mneme config schema takes no file", 2);
}

std::optional<Arguments> ParseVerb(const std::string& verb, const std::vector<std::string>& rest,
                                   Arguments& a) {
  VerbParser parser(verb);
  if (verb == "train") return ParseTrain(parser, rest, a.train);
  if (verb == "evaluate") return ParseEvaluate(parser, rest, a.evaluate);
  if (verb == "generate") return ParseGenerate(parser, rest, a.generate);
  if (verb == "analyze") return ParseAnalyze(parser, rest, a.analyze);
  if (verb == "report") return ParseReport(parser, rest, a.report);
  if (verb == "plan") return ParsePlan(parser, rest, a.plan);
  if (verb == "sweep") return ParseSweep(parser, rest, a.sweep);
  if (verb == "prepare") return ParsePrepare(parser, rest, a.prepare);
  if (verb == "convert") return ParseConvert(parser, rest, a.convert);
  if (verb == "inspect") return ParseInspect(parser, rest, a.inspect);
  return ParseConfigVerb(parser, rest, a.config);
}

Arguments UnknownVerb(const std::string& verb) {
  std::error_code error;
  if (std::filesystem::is_regular_file(verb, error)) {
    return Answer("mneme: '" + verb + "' is a file, not a verb; did you mean: mneme train " + verb,
                  2);
  }
  return Answer("mneme: unknown verb '" + verb + "'; nearest: " + Nearest(verb, Verbs()) +
                    ". mneme help lists all",
                2);
}

}  // namespace

Arguments ParseArguments(int argc, char** argv) {
  std::vector<std::string> words(argv + std::min(argc, 1), argv + argc);
  if (words.empty()) return Answer(GeneralHelp(), 2);
  if (words[0] == "--version") return Answer(VersionText(), 0);
  if (words[0] == "--help" || words[0] == "-h") words[0] = "help";
  if (words[0] == "help") {
    if (words.size() == 1 || words[1] == "help" || words[1] == "--help")
      return Answer(GeneralHelp(), 0);
    words = {words[1], "--help"};
  }
  const std::string verb = words[0];
  const std::vector<std::string> verbs = Verbs();
  if (std::find(verbs.begin(), verbs.end(), verb) == verbs.end()) return UnknownVerb(verb);
  words.erase(words.begin());
  Arguments arguments;
  if (auto answer = ParseVerb(verb, words, arguments)) return *answer;
  arguments.verb = verb;
  return arguments;
}

}  // namespace mneme
