// A guard before JSON from anywhere is parsed: what nests without end would end the program, since
// the parser's trees are copied and taken apart by recursion.
#pragma once

#include <string_view>

namespace mneme {

// True where lists and objects nest at most 64 deep. Reads brackets outside of strings and nothing
// else: whether the text is JSON is the parser's to say.
bool IsShallowJson(std::string_view text);

}  // namespace mneme
