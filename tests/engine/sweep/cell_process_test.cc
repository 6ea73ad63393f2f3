#include "engine/sweep/cell_process.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "tests/data/scratch.h"

namespace mneme {
namespace {

class CellProcesses : public Scratch {
 protected:
  CellExit Run(const std::string& line) {
    CellProcess process = CellProcess::Start(line, Path("log"), Path("log")).value();
    while (true) {
      if (auto exit = process.Poll()) return *exit;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }
  static bool Gone(pid_t pid) {
    for (int i = 0; i < 200; ++i) {
      if (kill(pid, 0) != 0) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }
  pid_t PidIn(const std::string& name) {
    for (int i = 0; i < 300 && Bytes(Path(name)).empty(); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    return static_cast<pid_t>(std::stol(Bytes(Path(name))));
  }
};

TEST_F(CellProcesses, TellsHowItEndedAndKeepsItsWords) {
  EXPECT_EQ(Run("echo one; echo two >&2; exit 3").code, 3);
  EXPECT_EQ(Bytes(Path("log")), "one\ntwo\n");
  const CellExit killed = Run("kill -9 $$");
  EXPECT_EQ(killed.code, 137);
  EXPECT_THAT(killed.text, testing::HasSubstr("signal 9"));
  EXPECT_EQ(Run("true").code, 0);
  EXPECT_FALSE(CellProcess::Start("true", "/no/such/folder/log", Path("log")).ok());
  EXPECT_FALSE(CellProcess::Start("true", Path("log"), "/no/such/folder/log").ok());
  ASSERT_EQ(mkfifo(Path("pipe").c_str(), 0600), 0);
  EXPECT_FALSE(CellProcess::Start("true", Path("log"), Path("pipe")).ok());
  const int reader = open(Path("pipe").c_str(), O_RDONLY | O_NONBLOCK);
  EXPECT_FALSE(CellProcess::Start("true", Path("log"), Path("pipe")).ok());
  close(reader);
}

TEST_F(CellProcesses, KeepsItsResultsApartFromItsLog) {
  CellProcess process =
      CellProcess::Start("echo one; echo two >&2", Path("results"), Path("apart")).value();
  while (!process.Poll()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(Bytes(Path("results")), "one\n");
  EXPECT_EQ(Bytes(Path("apart")), "two\n");
}

TEST_F(CellProcesses, EndsWithAllThatItStarted) {
  CellProcess process =
      CellProcess::Start("sleep 100 & echo $! > " + ShellQuoted(Path("pid")) + "; wait",
                         Path("log"), Path("log"))
          .value();
  const pid_t inner = PidIn("pid");
  EXPECT_EQ(kill(inner, 0), 0);
  process.Kill();
  EXPECT_TRUE(Gone(inner));
}

TEST_F(CellProcesses, DiesWithItsWorkerHoweverThatEnds) {
  const pid_t worker = fork();
  if (worker == 0) {
    auto process = CellProcess::Start(
        "sleep 100 & echo $! > " + ShellQuoted(Path("pid")) + "; wait", Path("log"), Path("log"));
    while (true) pause();
  }
  const pid_t inner = PidIn("pid");
  EXPECT_EQ(kill(inner, 0), 0);
  kill(worker, SIGKILL);
  waitpid(worker, nullptr, 0);
  EXPECT_TRUE(Gone(inner));
}

TEST(CellEnvironment, LeavesOutWhatMakesItARankOfAnotherJob) {
  std::vector<std::string> entries = {
      "PATH=/bin", "OMPI_COMM_WORLD_RANK=1",  "PMIX_RANK=1",      "OMPI_MCA_btl=self",
      "PMIX_X=y",  "SLURM_PROCID=3",          "SLURM_JOB_ID=99",  "OMPI_MCA_orte_hnp_uri=1.0",
      "HOME=/",    "OMPI_MCA_ess=^singleton", "OMP_NUM_THREADS=1"};
  std::vector<char*> pointers;
  for (std::string& entry : entries) pointers.push_back(entry.data());
  pointers.push_back(nullptr);
  EXPECT_THAT(CellEnvironment(pointers.data()),
              testing::ElementsAre("PATH=/bin", "OMPI_MCA_btl=self", "SLURM_JOB_ID=99", "HOME=/",
                                   "OMP_NUM_THREADS=1"));
}

TEST(LaunchLine, FillsInWhatItKnows) {
  EXPECT_EQ(FillLaunchLine("a {x} {y} {x}", {{"x", "1 {x}"}}), "a 1 {x} {y} 1 {x}");
  EXPECT_EQ(ShellQuoted("it's"), "'it'\\''s'");
}

}  // namespace
}  // namespace mneme
