#include "data/hdf5_file.h"

#include <sys/resource.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <numeric>
#include <thread>

#include "gmock/gmock.h"
#include "tests/data/scratch.h"

namespace mneme {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class Hdf5FileTest : public Scratch {
 protected:
  std::unique_ptr<H5File> Make(const std::string& name) {
    auto file = H5File::Create(Path(name));
    EXPECT_TRUE(file.ok()) << file.status();
    return *std::move(file);
  }
};

TEST_F(Hdf5FileTest, KeepsEveryTypeAndShape) {
  const std::vector<float> f32 = {1.5f, -2.0f, 3.25f, 4.0f, 5.0f, 6.0f};
  const std::vector<int64_t> i64 = {int64_t{1} << 40, -7};
  const std::vector<uint16_t> u16 = {65535};
  const double scalar = 0.1;
  auto file = Make("a.h5");
  ASSERT_TRUE(file->Write("weights/up", H5Type::kF32, {2, 3}, f32.data()).ok());
  ASSERT_TRUE(file->Write("weights/down/i", H5Type::kI64, {2}, i64.data()).ok());
  ASSERT_TRUE(file->Write("ids", H5Type::kU16, {1, 1, 1}, u16.data()).ok());
  ASSERT_TRUE(file->Write("scalar", H5Type::kF64, {}, &scalar).ok());
  ASSERT_TRUE(file->Write("nothing", H5Type::kI32, {0, 4}, nullptr).ok());
  ASSERT_TRUE(file->WriteText("notes", "a\nb é").ok());
  ASSERT_TRUE(file->WriteText("empty", "").ok());
  ASSERT_TRUE(file->Close().ok());

  auto open = H5File::Open(Path("a.h5"));
  ASSERT_TRUE(open.ok()) << open.status();
  const H5File& read = **open;
  EXPECT_THAT(read.Datasets(), ElementsAre("empty", "ids", "notes", "nothing", "scalar",
                                           "weights/down/i", "weights/up"));
  std::vector<float> f32_back(6);
  ASSERT_TRUE(read.Read("weights/up", H5Type::kF32, f32_back.data(), 24).ok());
  EXPECT_EQ(f32_back, f32);
  std::vector<int64_t> i64_back(2);
  ASSERT_TRUE(read.Read("weights/down/i", H5Type::kI64, i64_back.data(), 16).ok());
  EXPECT_EQ(i64_back, i64);
  double scalar_back = 0;
  ASSERT_TRUE(read.Read("scalar", H5Type::kF64, &scalar_back, 8).ok());
  EXPECT_EQ(scalar_back, scalar);
  EXPECT_TRUE(read.Read("nothing", H5Type::kI32, nullptr, 0).ok());
  EXPECT_EQ(*read.ReadText("notes"), "a\nb é");
  EXPECT_EQ(*read.ReadText("empty"), "");
  EXPECT_THAT(read.Info("weights/up")->shape, ElementsAre(2, 3));
  EXPECT_TRUE(read.Info("scalar")->shape.empty());
  EXPECT_TRUE(read.Has("weights/down/i"));
  EXPECT_FALSE(read.Has("weights/left/i"));
}

TEST_F(Hdf5FileTest, RowsComeAndGoInParts) {
  std::vector<int32_t> rows(300);
  std::iota(rows.begin(), rows.end(), 0);
  auto file = Make("rows.h5");
  for (const int64_t begin : {60, 0, 20, 40, 80}) {
    ASSERT_TRUE(file->WriteRows("r", H5Type::kI32, {100, 3}, begin, 20, &rows[begin * 3u]).ok());
  }
  ASSERT_TRUE(file->Close().ok());
  auto open = H5File::Open(Path("rows.h5"));
  ASSERT_TRUE(open.ok());
  std::vector<int32_t> part(6);
  ASSERT_TRUE((*open)->ReadRows("r", H5Type::kI32, 59, 2, part.data(), 24).ok());
  EXPECT_THAT(part, ElementsAre(177, 178, 179, 180, 181, 182));
  EXPECT_EQ((*open)->ReadRows("r", H5Type::kI32, 99, 2, part.data(), 24).code(),
            absl::StatusCode::kDataLoss);
}

TEST_F(Hdf5FileTest, OffsetsLeadToTheDataAndAreAligned) {
  auto file = Make("o.h5");
  ASSERT_TRUE(file->WriteText("odd", "xyz").ok());
  for (int i = 0; i < 5; ++i) {
    const std::vector<uint16_t> ids(static_cast<size_t>(3 + i), static_cast<uint16_t>(1000 + i));
    const int64_t count = 3 + i;
    ASSERT_TRUE(file->Write("s" + std::to_string(i), H5Type::kU16, {count}, ids.data()).ok());
  }
  ASSERT_TRUE(file->Close().ok());
  const std::string bytes = Bytes(Path("o.h5"));
  auto open = H5File::Open(Path("o.h5"));
  for (int i = 0; i < 5; ++i) {
    const auto info = (*open)->Info("s" + std::to_string(i));
    ASSERT_TRUE(info.ok());
    EXPECT_EQ(info->offset % 64, 0);
    uint16_t last = 0;
    std::memcpy(&last, &bytes.at(static_cast<size_t>(info->offset + 2 * (2 + i))), 2);
    EXPECT_EQ(last, 1000 + i);
  }
}

TEST_F(Hdf5FileTest, SaysWhatIsWrong) {
  EXPECT_EQ(H5File::Open(Path("absent.h5")).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(H5File::Create(Path("no folder/a.h5")).status().code(), absl::StatusCode::kNotFound);
  const absl::Status text = H5File::Open(Put("t.h5", "plain text")).status();
  EXPECT_EQ(text.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(text.message()), HasSubstr("t.h5"));

  auto file = Make("a.h5");
  const std::vector<float> data(5000, 1.0f);
  ASSERT_TRUE(file->Write("x", H5Type::kF32, {5000}, data.data()).ok());
  EXPECT_EQ(file->Write("x", H5Type::kF32, {5000}, data.data()).code(),
            absl::StatusCode::kAlreadyExists);
  ASSERT_TRUE(file->Close().ok());
  std::vector<double> wide(5000);
  {
    auto open = H5File::Open(Path("a.h5"));
    EXPECT_THAT(std::string((*open)->Read("x", H5Type::kF64, wide.data(), 40000).message()),
                HasSubstr("'x' holds f32, expected f64"));
    EXPECT_EQ((*open)->Read("x", H5Type::kF32, wide.data(), 40000).code(),
              absl::StatusCode::kDataLoss);
    EXPECT_EQ((*open)->Info("y").status().code(), absl::StatusCode::kNotFound);
    EXPECT_EQ((*open)->ReadText("x").status().code(), absl::StatusCode::kDataLoss);
  }
  std::filesystem::resize_file(Path("a.h5"), 8000);
  const absl::Status cut = H5File::Open(Path("a.h5")).status();
  EXPECT_EQ(cut.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(cut.message()), HasSubstr("truncated"));
}

// A limit on file sizes stands in for a full disk: the system refuses the write in the same place.
TEST_F(Hdf5FileTest, FullDiskIsResourceExhausted) {
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before;
  getrlimit(RLIMIT_FSIZE, &before);
  const std::vector<double> data(100000, 1.0);
  auto file = Make("big.h5");
  rlimit small = before;
  small.rlim_cur = 200000;
  setrlimit(RLIMIT_FSIZE, &small);
  absl::Status status = file->Write("x", H5Type::kF64, {100000}, data.data());
  if (status.ok()) status = file->Close();
  const absl::Status atomic = WriteFileAtomically(Path("b"), std::string(300000, 'x'));
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("big.h5"));
  EXPECT_EQ(atomic.code(), absl::StatusCode::kResourceExhausted) << atomic;
  EXPECT_FALSE(std::filesystem::exists(Path("b")));
  EXPECT_FALSE(std::filesystem::exists(Path("b.tmp")));
}

TEST_F(Hdf5FileTest, ThreadsWriteAndReadTheirOwnFiles) {
  std::vector<std::thread> threads;
  std::array<bool, 4> good{};
  for (size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      const std::string path = Path("t" + std::to_string(t) + ".h5");
      const std::vector<int64_t> data(1000, static_cast<int64_t>(t));
      auto file = H5File::Create(path);
      bool ok = file.ok();
      for (int i = 0; ok && i < 20; ++i) {
        ok = (*file)->Write("g/" + std::to_string(i), H5Type::kI64, {1000}, data.data()).ok();
      }
      ok = ok && (*file)->Close().ok();
      std::vector<int64_t> back(1000);
      auto open = H5File::Open(path);
      ok = ok && open.ok() && (*open)->Read("g/7", H5Type::kI64, back.data(), 8000).ok();
      good[t] = ok && back == data;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(good, ElementsAre(true, true, true, true));
}

TEST_F(Hdf5FileTest, DigestsAndAtomicWrites) {
  EXPECT_EQ(BytesDigest(""), "2d06800538d394c2");  // XXH3-64 of nothing, seed 0
  const std::string bytes(3 << 20, 'q');
  ASSERT_TRUE(WriteFileAtomically(Path("f"), bytes).ok());
  EXPECT_EQ(*FileDigest(Path("f")), BytesDigest(bytes));
  EXPECT_EQ(*ReadFileBytes(Path("f")), bytes);
  EXPECT_EQ(*FileSize(Path("f")), 3 << 20);
  ASSERT_TRUE(WriteFileAtomically(Path("f"), "new").ok());
  EXPECT_EQ(*ReadFileBytes(Path("f")), "new");
  EXPECT_FALSE(std::filesystem::exists(Path("f.tmp")));
  EXPECT_EQ(FileDigest(Path("g")).status().code(), absl::StatusCode::kNotFound);
}

// An error's kind decides the exit code, its text what to do.
TEST(FileErrorTest, SaysWhatWhereAndWhy) {
  const auto code = [](int number) { return FileError("a/b", "write", number).code(); };
  EXPECT_EQ(code(ENOENT), absl::StatusCode::kNotFound);
  EXPECT_EQ(code(ENOTDIR), absl::StatusCode::kNotFound);
  for (const int denied : {EACCES, EPERM, EROFS})
    EXPECT_EQ(code(denied), absl::StatusCode::kPermissionDenied);
  for (const int full : {ENOSPC, EDQUOT, EFBIG}) {
    EXPECT_EQ(code(full), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(FileError("a/b", "write", full).message()),
                HasSubstr("; free some space, or choose another folder"));
  }
  EXPECT_EQ(code(EIO), absl::StatusCode::kDataLoss);
  for (const int named : {EISDIR, EINVAL, ENAMETOOLONG, ELOOP})
    EXPECT_EQ(code(named), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(EMFILE), absl::StatusCode::kUnavailable);
  EXPECT_EQ(FileError("a/b", "open", EACCES).message(), "a/b: cannot open: Permission denied");
}

TEST_F(Hdf5FileTest, AFolderIsListedOrSaidWhyNot) {
  std::filesystem::create_directory(Path("empty"));
  std::filesystem::create_directory(Path("two"));
  for (const char* name : {"two/a", "two/b"}) std::ofstream(Path(name)) << name;
  const auto none = ListFolder(Path("empty")), two = ListFolder(Path("two"));
  ASSERT_TRUE(none.ok() && two.ok());
  EXPECT_TRUE(none->empty());
  std::vector<std::string> names;
  for (const auto& entry : *two) names.push_back(entry.path().filename());
  EXPECT_THAT(names, testing::UnorderedElementsAre("a", "b"));
  EXPECT_EQ(ListFolder(Path("none")).status().message(),
            Path("none") + ": cannot read: No such file or directory");
  EXPECT_EQ(ListFolder(Path("two/a")).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(Hdf5FileTest, WhatIsNoFileIsNotRead) {
  std::filesystem::create_symlink("loop", Path("loop"));
  std::filesystem::create_symlink("/dev/null", Path("device"));
  for (const auto& [path, why] :
       {std::pair{Path(""), "is a folder, not a file"},
        {Path("device"), "is a pipe or a device, not a file"},
        {Path("loop"), "cannot open: Too many levels of symbolic links"}}) {
    for (const absl::Status& status :
         {ReadFileBytes(path).status(), FileDigest(path).status(), FileSize(path).status()}) {
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << path;
      EXPECT_THAT(std::string(status.message()), HasSubstr(path + ": " + why));
    }
  }
  // A folder in the way of a file leaves nothing beside it.
  std::filesystem::create_directories(Path("taken/inside"));
  const absl::Status status = WriteFileAtomically(Path("taken"), "text");
  EXPECT_THAT(std::string(status.message()), HasSubstr("taken: cannot put in place"));
  EXPECT_FALSE(std::filesystem::exists(Path("taken.tmp")));
  EXPECT_TRUE(std::filesystem::exists(Path("taken/inside")));
}

}  // namespace
}  // namespace mneme
