#include "engine/report/tensorboard.h"

#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>

#include "data/files.h"

namespace mneme {
namespace {

constexpr std::array<uint32_t, 256> MakeCrcTable() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t c = i;
    for (int bit = 0; bit < 8; ++bit) c = (c >> 1) ^ ((c & 1) != 0 ? 0x82f63b78u : 0u);
    table[i] = c;
  }
  return table;
}
constexpr std::array<uint32_t, 256> kCrcTable = MakeCrcTable();

// Little-endian bytes of an integer.
template <class T>
std::string Bytes(T value) {
  std::string out;
  for (size_t i = 0; i < sizeof(T); ++i) out += static_cast<char>(value >> (8 * i) & 0xff);
  return out;
}

std::string Varint(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  return out + static_cast<char>(value);
}

// Protobuf: tag byte = field number << 3 | wire type.
std::string Field(int number, const std::string& bytes) {
  return static_cast<char>(number << 3 | 2) + Varint(bytes.size()) + bytes;
}
std::string Field(int number, double value) {
  return static_cast<char>(number << 3 | 1) + Bytes(std::bit_cast<uint64_t>(value));
}
std::string Field(int number, float value) {
  return static_cast<char>(number << 3 | 5) + Bytes(std::bit_cast<uint32_t>(value));
}
std::string Field(int number, int64_t value) {
  return static_cast<char>(number << 3) + Varint(static_cast<uint64_t>(value));
}

// Fields of tensorflow.Event, Summary, Summary.Value and SessionLog that are used here.
constexpr int kEventWallTime = 1, kEventStep = 2, kEventFileVersion = 3, kEventSummary = 5,
              kEventSessionLog = 7;
constexpr int kSummaryValue = 1, kValueTag = 1, kValueSimple = 2, kSessionStatus = 1;
constexpr int64_t kSessionStart = 1;

double WallTime() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string Scalar(const std::string& tag, double value) {
  if (!std::isfinite(value)) return "";
  return Field(kSummaryValue,
               Field(kValueTag, tag) + Field(kValueSimple, static_cast<float>(value)));
}

class FileTensorBoardLog : public TensorBoardLog {
 public:
  FileTensorBoardLog(std::string path, std::FILE* file) : path_(std::move(path)), file_(file) {}
  ~FileTensorBoardLog() override { std::fclose(file_); }

  absl::Status Write(const StepReport& report) override {
    std::string summary =
        Scalar("loss", report.loss) + Scalar("learning_rate", report.learning_rate) +
        Scalar("grad_norm", report.grad_norm) + Scalar("seconds", report.seconds) +
        Scalar("tokens_per_second", report.tokens_per_second);
    for (const auto& [name, value] : report.more) summary += Scalar(name, value);
    return WriteEvent(Field(kEventStep, report.step) + Field(kEventSummary, summary));
  }

  absl::Status WriteEvent(const std::string& fields) {
    const std::string event = Field(kEventWallTime, WallTime()) + fields;
    const std::string length = Bytes(static_cast<uint64_t>(event.size()));
    const std::string frame = length + Bytes(MaskedCrc(length)) + event + Bytes(MaskedCrc(event));
    if (std::fwrite(frame.data(), 1, frame.size(), file_) != frame.size() ||
        std::fflush(file_) != 0) {
      return FileError(path_, "write", errno);
    }
    return absl::OkStatus();
  }

 private:
  const std::string path_;
  std::FILE* const file_;
};

}  // namespace

uint32_t Crc32c(const std::string& bytes) {
  uint32_t crc = ~0u;
  for (const char c : bytes)
    crc = kCrcTable[(crc ^ static_cast<unsigned char>(c)) & 0xff] ^ (crc >> 8);
  return ~crc;
}

uint32_t MaskedCrc(const std::string& bytes) { return std::rotr(Crc32c(bytes), 15) + 0xa282ead8u; }

absl::StatusOr<std::unique_ptr<TensorBoardLog>> TensorBoardLog::Open(const std::string& folder,
                                                                     int64_t last_step) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) return FileError(folder, "make the folder", error.value());
  // TensorBoard reads files in the order of their names, which begin with the time.
  std::array<char, 80> name;
  std::snprintf(name.data(), name.size(), "/events.out.tfevents.%010ld.mneme.%d",
                static_cast<long>(WallTime()), static_cast<int>(getpid()));
  const std::string path = folder + name.data();
  std::FILE* file = std::fopen(path.c_str(), "wbe");
  if (file == nullptr) return FileError(path, "create", errno);
  auto log = std::make_unique<FileTensorBoardLog>(path, file);
  absl::Status status = log->WriteEvent(Field(kEventFileVersion, std::string("brain.Event:2")));
  if (status.ok() && last_step > 0) {
    status = log->WriteEvent(Field(kEventStep, last_step + 1) +
                             Field(kEventSessionLog, Field(kSessionStatus, kSessionStart)));
  }
  if (!status.ok()) return status;
  return log;
}

}  // namespace mneme
