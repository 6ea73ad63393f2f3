// mneme prepare --input FILE... --output DIR
#include "data/prepare.h"

#include <unistd.h>

#include <cstdio>

#include "configs/json_text.h"
#include "engine/report/report.h"
#include "kernels/core/check.h"
#include "launch/verbs.h"

namespace mneme {
namespace {

std::string ReportJson(const PrepareReport& report) {
  std::vector<std::string> corpora;
  for (const PreparedCorpus& corpus : report.corpora) {
    JsonObject json;
    json.Add("folder", corpus.folder)
        .Add("tokens", corpus.tokens)
        .Add("documents", corpus.documents);
    json.Add("text_bytes", corpus.text_bytes)
        .Add("shards", corpus.shards)
        .Add("digest", corpus.digest);
    corpora.push_back(json.Text());
  }
  return JsonObject()
      .Add("already_there", report.already_there)
      .AddRaw("corpora", JsonArray(corpora))
      .Text();
}

// A line that is drawn over on a terminal; nothing elsewhere.
void ShowProgress(const PrepareProgress& progress) {
  const double share = progress.bytes_total > 0 ? 100.0 * static_cast<double>(progress.bytes_done) /
                                                      static_cast<double>(progress.bytes_total)
                                                : 100.0;
  std::fprintf(stderr, "\r%5.1f %%  %s tokens  %s\x1b[K", share,
               CountText(static_cast<double>(progress.tokens)).c_str(), progress.input.c_str());
}

}  // namespace

absl::StatusOr<int> PrepareVerb(const PrepareArguments& arguments) {
  PrepareOptions options = arguments.options;
  const bool terminal = isatty(STDERR_FILENO) != 0;
  if (terminal) options.progress = ShowProgress;
  const absl::StatusOr<PrepareReport> report = Prepare(options);
  if (terminal) std::fprintf(stderr, "\r\x1b[K");
  // What was typed names the inputs: an input that is missing is a usage error.
  if (absl::IsNotFound(report.status()))
    return absl::InvalidArgumentError(report.status().message());
  RETURN_IF_ERROR(report.status());
  if (arguments.json) {
    std::printf("%s\n", ReportJson(*report).c_str());
    return 0;
  }
  for (const PreparedCorpus& corpus : report->corpora) {
    std::printf("%s: %ld tokens, %ld documents, %ld bytes of text%s\n", corpus.folder.c_str(),
                static_cast<long>(corpus.tokens), static_cast<long>(corpus.documents),
                static_cast<long>(corpus.text_bytes),
                report->already_there ? " (was there already)" : "");
  }
  return 0;
}

}  // namespace mneme
