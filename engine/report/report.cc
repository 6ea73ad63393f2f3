#include "engine/report/report.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <optional>

#include "configs/json_text.h"
#include "configs/text.h"
#include "data/files.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

// The finite number after `"key": ` in a line that MetricsLine wrote.
std::optional<double> ValueIn(const std::string& line, const std::string& key) {
  const std::string mark = JsonString(key) + ": ";
  const size_t at = line.find(mark);
  if (at == std::string::npos) return std::nullopt;
  const char* begin = line.data() + at + mark.size();
  double value = 0.0;
  const auto [end, error] = std::from_chars(begin, line.data() + line.size(), value);
  if (error != std::errc{} || !std::isfinite(value)) return std::nullopt;
  return value;
}

bool IsWhole(const std::string& line) {
  return line.size() > 2 && line.front() == '{' && line.back() == '}';
}

// The step of a line where it is a whole one of a step after `before`. Nothing else is a step's: a
// line that a crash tore, zeros that it left, what somebody else wrote.
std::optional<double> StepOf(const std::string& line, double before) {
  const std::optional<double> step = IsWhole(line) ? ValueIn(line, "step") : std::nullopt;
  return step && *step > before && *step == std::floor(*step) ? step : std::nullopt;
}

// Bytes up to the end of the last step's line that is not beyond last_step.
int64_t SoundBytes(const std::string& path, int64_t last_step) {
  std::ifstream in(path, std::ios::binary);
  int64_t bytes = 0, sound = 0;
  double before = 0.0;
  for (std::string line; std::getline(in, line) && !in.eof();) {
    bytes += static_cast<int64_t>(line.size()) + 1;
    const std::optional<double> step = StepOf(line, before);
    if (!step || *step > static_cast<double>(last_step)) continue;
    before = *step;
    sound = bytes;
  }
  return sound;
}

class FileMetricsLog : public MetricsLog {
 public:
  FileMetricsLog(std::string path, int descriptor)
      : path_(std::move(path)), descriptor_(descriptor) {}
  ~FileMetricsLog() override { close(descriptor_); }

  absl::Status Write(const StepReport& report) override {
    const std::string line = MetricsLine(report) + "\n";
    for (size_t done = 0; done < line.size();) {
      const ssize_t wrote = write(descriptor_, line.data() + done, line.size() - done);
      if (wrote < 0 && errno == EINTR) continue;
      if (wrote < 0) return FileError(path_, "write", errno);
      done += static_cast<size_t>(wrote);
    }
    return absl::OkStatus();
  }

  absl::Status Flush() override {
    return fdatasync(descriptor_) == 0 ? absl::OkStatus() : FileError(path_, "sync", errno);
  }

 private:
  const std::string path_;
  const int descriptor_;
};

std::string Format(const char* format, double value) {
  std::array<char, 48> text;
  std::snprintf(text.data(), text.size(), format, value);
  return text.data();
}

}  // namespace

std::string MetricsLine(const StepReport& report) {
  JsonObject line;
  line.Add("step", report.step)
      .Add("loss", report.loss)
      .Add("tokens", report.tokens)
      .Add("learning_rate", report.learning_rate)
      .Add("grad_norm", report.grad_norm)
      .Add("seconds", report.seconds)
      .Add("tokens_per_second", report.tokens_per_second)
      .Add("skipped", report.skipped);
  if (!report.rank_seconds.empty()) {
    const SlowestRank slowest = FindSlowest(report.rank_seconds);
    line.Add("ranks/slowest", slowest.rank)
        .Add("ranks/seconds_max", slowest.seconds)
        .Add("ranks/seconds_median", slowest.median);
  }
  for (const auto& [name, value] : report.more) line.Add(name, value);
  return line.Text();
}

SlowestRank FindSlowest(const std::vector<double>& rank_seconds) {
  const auto slowest = std::max_element(rank_seconds.begin(), rank_seconds.end());
  std::vector<double> sorted = rank_seconds;
  const auto middle = sorted.begin() + static_cast<int64_t>(sorted.size() / 2);
  std::nth_element(sorted.begin(), middle, sorted.end());
  return {slowest - rank_seconds.begin(), *slowest, *middle};
}

absl::StatusOr<std::unique_ptr<MetricsLog>> MetricsLog::Open(const std::string& path,
                                                             int64_t last_step) {
  const absl::Status regular = FileSize(path).status();
  if (!regular.ok() && !absl::IsNotFound(regular)) return regular;
  const int64_t sound = SoundBytes(path, last_step);
  const int descriptor = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (descriptor < 0) return FileError(path, "open", errno);
  auto log = std::make_unique<FileMetricsLog>(path, descriptor);
  if (ftruncate(descriptor, sound) != 0)
    return FileError(path, "cut to its last sound line", errno);
  return log;
}

absl::StatusOr<std::vector<std::pair<double, double>>> ReadSeries(const std::string& path,
                                                                  const std::string& name,
                                                                  std::string* left_out) {
  const absl::Status regular = FileSize(path).status();
  if (!regular.ok() && !absl::IsNotFound(regular)) return regular;
  std::ifstream in(path, std::ios::binary);
  if (!in) return absl::NotFoundError(path + ": no metrics here; is this the folder of a run?");
  std::vector<std::pair<double, double>> series;
  double before = 0.0;
  int64_t number = 0, others = 0, first = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    const std::optional<double> step = StepOf(line, before);
    if (!step) {
      // The last one may be being written.
      if (!in.eof() && ++others == 1) first = number;
      continue;
    }
    before = *step;
    if (const std::optional<double> value = ValueIn(line, name)) series.emplace_back(*step, *value);
  }
  if (others > 0 && left_out != nullptr) {
    *left_out = path + ":" + std::to_string(first) + ": is no line of a step" +
                (others > 1 ? ", and so are " + std::to_string(others - 1) + " more" : "") +
                "; left out";
  }
  return series;
}

std::string DurationText(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0.0 || seconds > 1e9) return "?";
  const auto s = static_cast<int64_t>(std::llround(seconds));
  std::array<char, 40> text;
  if (s >= 3600) {
    std::snprintf(text.data(), text.size(), "%ldh%02ldm", s / 3600, s % 3600 / 60);
  } else if (s >= 60) {
    std::snprintf(text.data(), text.size(), "%ldm%02lds", s / 60, s % 60);
  } else {
    std::snprintf(text.data(), text.size(), "%lds", s);
  }
  return text.data();
}

std::string CountText(double count) {
  if (count >= 1e12) return Format("%.2fT", count / 1e12);
  if (count >= 1e9) return Format("%.2fB", count / 1e9);
  if (count >= 1e6) return Format("%.2fM", count / 1e6);
  if (count >= 1e4) return Format("%.1fk", count / 1e3);
  return Format("%.0f", count);
}

std::string ConsoleLine(const StepReport& report, double eta_seconds) {
  std::string line = "step " + std::to_string(report.step) + "/" + std::to_string(report.steps);
  line += Format(" | loss %.4f", report.loss) + Format(" | gnorm %.3g", report.grad_norm);
  line += Format(" | lr %.2e", report.learning_rate) + " | " + CountText(report.tokens_per_second) +
          " tok/s";
  if (!report.rank_seconds.empty()) {
    const SlowestRank slowest = FindSlowest(report.rank_seconds);
    line += " | rank " + std::to_string(slowest.rank) + " slowest" +
            (slowest.median > 0.0 ? Format(", x%.2f", slowest.seconds / slowest.median) : "");
  }
  if (report.skipped) line += " | skipped";
  return line + " | eta " + DurationText(eta_seconds);
}

}  // namespace mneme
