// A model's chat template: how messages become the text that it was trained on.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "measure/json.hpp"

namespace mixcomm::tools {

struct Message {
  std::string role;  ///< "system", "user" or "assistant"
  std::string content;
};
using Conversation = std::vector<Message>;

class ChatTemplate {
 public:
  /// That of a model's directory, where transformers looks for it: chat_template.jinja, else "chat_template"
  /// in tokenizer_config.json (of several, the one named "default"), else in chat_template.json. Throws
  /// InvalidArgument where there is none, or a file is damaged.
  explicit ChatTemplate(const std::filesystem::path& directory);

  /// The text of each conversation, up to where the model's answer begins. `variables`, an object, is for the
  /// template besides the names of the special tokens, which it has from tokenizer_config.json.
  ///
  /// Templates are programs in Jinja. They run in a sandbox of jinja2, the engine that transformers has, in a
  /// Python process of its own: `python3` on PATH, or what MIXCOMM_PYTHON names. Throws Unsupported where
  /// that has no jinja2, InvalidArgument with the template's own words where it refuses or is damaged.
  [[nodiscard]] std::vector<std::string> texts(const std::vector<Conversation>& conversations,
                                               const Json& variables) const;

 private:
  std::string origin_;  ///< the file that has it
  std::string template_;
  Json tokens_ = Json::object();  ///< {"eos_token": "<|im_end|>", ...}
};

}  // namespace mixcomm::tools
