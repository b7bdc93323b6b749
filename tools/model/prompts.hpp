// How questions are put to a model.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "tools/command/command.hpp"

namespace mixcomm::tools {

struct PromptFlags {
  bool chat = false;
  std::string system;                  ///< a message before the others; empty: none
  std::vector<std::string> variables;  ///< "name=value", for the chat template
};
/// --chat, --system and --chat-option; returns --chat, which the others need.
Flag add_prompt_flags(Flags& flags, PromptFlags& values);

/// A question that is shown with its answer.
struct Shot {
  std::string question;
  std::string answer;
};

/// The text of each question for the model of that directory, with the same shots before each: "Question: ...
/// \nAnswer: ...\n\nQuestion: ...\nAnswer:", or with --chat what the model's chat template makes of them, a
/// message of the user for each question and one of the assistant for each answer. Throws what ChatTemplate
/// throws, and InvalidArgument for --chat-option without "=".
[[nodiscard]] std::vector<std::string> prompts_of(const PromptFlags& flags,
                                                  const std::filesystem::path& model_directory,
                                                  const std::vector<Shot>& shots,
                                                  const std::vector<std::string>& questions);

/// What a model says to one question: without --chat it may go on to ask itself the next one, which is cut
/// off.
[[nodiscard]] std::string_view answer_part(std::string_view text, const PromptFlags& flags);

}  // namespace mixcomm::tools
