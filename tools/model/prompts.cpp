#include "tools/model/prompts.hpp"

#include <fmt/format.h>

#include "mixcomm/error.hpp"
#include "tools/model/chat_template.hpp"

namespace mixcomm::tools {
namespace {

Json variables_of(const std::vector<std::string>& texts) {
  Json variables = Json::object();
  for (const std::string& text : texts) {
    const std::size_t sign = text.find('=');
    if (sign == 0 || sign == std::string::npos)
      throw InvalidArgument(
          fmt::format("--chat-option {}: must be NAME=VALUE, such as enable_thinking=false", text));
    const std::string value = text.substr(sign + 1);
    Json json = Json::parse(value, nullptr, false);
    variables[text.substr(0, sign)] = json.is_discarded() ? Json(value) : std::move(json);
  }
  return variables;
}

Conversation conversation(const PromptFlags& flags, const std::vector<Shot>& shots,
                          const std::string& question) {
  Conversation messages;
  if (!flags.system.empty()) messages.push_back({"system", flags.system});
  for (const Shot& shot : shots) {
    messages.push_back({"user", shot.question});
    messages.push_back({"assistant", shot.answer});
  }
  messages.push_back({"user", question});
  return messages;
}

}  // namespace

Flag add_prompt_flags(Flags& flags, PromptFlags& values) {
  const Flag chat = flags.yes("--chat", values.chat,
                              "Put questions as the model's chat template has it (Python 3 with jinja2)");
  flags.text("--system", values.system, "--chat: a system message before the others").needs(chat);
  flags
      .texts("--chat-option", values.variables, "NAME=VALUE",
             "--chat: a variable for the template, such as enable_thinking=false; may be given several times")
      .needs(chat);
  return chat;
}

std::vector<std::string> prompts_of(const PromptFlags& flags, const std::filesystem::path& model_directory,
                                    const std::vector<Shot>& shots,
                                    const std::vector<std::string>& questions) {
  if (!flags.chat) {
    std::string before;
    for (const Shot& shot : shots)
      before += fmt::format("Question: {}\nAnswer: {}\n\n", shot.question, shot.answer);
    std::vector<std::string> texts;
    texts.reserve(questions.size());
    for (const std::string& question : questions)
      texts.push_back(fmt::format("{}Question: {}\nAnswer:", before, question));
    return texts;
  }
  std::vector<Conversation> conversations;
  conversations.reserve(questions.size());
  for (const std::string& question : questions) conversations.push_back(conversation(flags, shots, question));
  return ChatTemplate(model_directory).texts(conversations, variables_of(flags.variables));
}

std::string_view answer_part(std::string_view text, const PromptFlags& flags) {
  return flags.chat ? text : text.substr(0, text.find("\nQuestion:"));
}

}  // namespace mixcomm::tools
