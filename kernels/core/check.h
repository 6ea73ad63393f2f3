// The project's macros, all of them, with Abseil's spelling: a later Abseil that has absl/log and
// status_macros deletes this file. Every room may include it; it includes nothing of ours.
//
// CHECK… are for our own mistakes (a broken promise, a shape that does not fit): they print place
// and values and end every rank. They are never reachable from user input, which travels as
// absl::Status.
#pragma once

#include <sstream>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace mneme {

// Called by Fatal after the message is printed, before the process exits; World sets it so that no
// other rank is left waiting. May be null. The hook must not return to running code: it ends the
// process or lets Fatal do so.
using AbortHook = void (*)(int exit_code);
// One a process; it runs at most once, in the first thread that ends all.
void SetAbortHook(AbortHook hook);

// Prints "file:line: message" once on stderr, runs the abort hook, exits with `exit_code`.
[[noreturn]] void Fatal(const char* file, int line, const std::string& message, int exit_code = 1);

namespace check_internal {
template <class A, class B>
std::string Describe(const char* text, const A& a, const B& b) {
  std::ostringstream out;
  out << "check failed: " << text << " (" << a << " and " << b << ")";
  return out.str();
}
}  // namespace check_internal

}  // namespace mneme

// Each evaluates what it is given once; those of two values print both with <<, so that both need
// an operator<<.
#define CHECK(condition) \
  ((condition) ? (void)0 : ::mneme::Fatal(__FILE__, __LINE__, "check failed: " #condition))
#define MNEME_CHECK_OP(a, b, op)                                                              \
  do {                                                                                        \
    const auto& check_a = (a);                                                                \
    const auto& check_b = (b);                                                                \
    if (!(check_a op check_b))                                                                \
      ::mneme::Fatal(__FILE__, __LINE__,                                                      \
                     ::mneme::check_internal::Describe(#a " " #op " " #b, check_a, check_b)); \
  } while (false)
#define CHECK_EQ(a, b) MNEME_CHECK_OP(a, b, ==)
#define CHECK_NE(a, b) MNEME_CHECK_OP(a, b, !=)
#define CHECK_LT(a, b) MNEME_CHECK_OP(a, b, <)
#define CHECK_LE(a, b) MNEME_CHECK_OP(a, b, <=)
#define CHECK_GT(a, b) MNEME_CHECK_OP(a, b, >)
#define CHECK_GE(a, b) MNEME_CHECK_OP(a, b, >=)

// Leave the function with the status where it is an error; the function returns absl::Status or
// absl::StatusOr. ASSIGN_OR_RETURN takes a StatusOr and is several statements: it may declare
// `lhs`, and is never the body of an `if` without braces.
#define RETURN_IF_ERROR(expression)                                                          \
  do {                                                                                       \
    if (::absl::Status check_status = (expression); !check_status.ok()) return check_status; \
  } while (false)
#define MNEME_CONCAT_(a, b) a##b
#define MNEME_CONCAT(a, b) MNEME_CONCAT_(a, b)
#define ASSIGN_OR_RETURN(lhs, expression)                                                         \
  auto MNEME_CONCAT(check_or_, __LINE__) = (expression);                                          \
  if (!MNEME_CONCAT(check_or_, __LINE__).ok()) return MNEME_CONCAT(check_or_, __LINE__).status(); \
  lhs = std::move(MNEME_CONCAT(check_or_, __LINE__)).value()
