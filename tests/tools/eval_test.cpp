// `mixcomm eval`: what one odd line does, shots, chat templates; heads with more rows than there are tokens.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>

#include "command.hpp"

namespace mixcomm::test {
namespace {

using nlohmann::json;

bool has_jinja() {
  const char* named = std::getenv("MIXCOMM_PYTHON");
  const std::string python = named != nullptr ? named : "python3";
  // One that the command takes: of PyPI's, older ones have holes in their sandbox.
  const std::string script =
      "import jinja2.sandbox as s, jinja2 as j; "
      "assert 'dist-packages' in j.__file__ or [int(n) for n in j.__version__.split('.')[:3]] >= [3, 1, 6]";
  return std::system((python + " -c \"" + script + "\" 2>/dev/null").c_str()) == 0;
}

class Eval : public testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(tiny_model + "/model.safetensors"))
      GTEST_SKIP() << "there is no " << tiny_model;
  }

  /// A copy of the tiny model, of which a test may change what is small.
  std::string model_copy() {
    std::string copy = files_.file("model");
    std::filesystem::create_directory(copy);
    for (const char* name :
         {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"})
      std::filesystem::copy_file(tiny_model + "/" + name, copy + "/" + name);
    std::filesystem::create_symlink(tiny_model + "/model.safetensors", copy + "/model.safetensors");
    return copy;
  }

  /// The first lines of the held-out problems.
  static std::vector<std::string> problems(std::size_t count) {
    std::ifstream file(tiny_model + "/eval.jsonl");
    std::vector<std::string> lines(count);
    for (std::string& line : lines) std::getline(file, line);
    return lines;
  }

  Outcome eval(const std::string& model, const std::string& data, const Words& more = {},
               const Environment& environment = {}) {
    Words words{"eval",
                "--model",
                model,
                "--data",
                files_.file("data.jsonl", data),
                "--dtype",
                "fp32",
                "--json",
                files_.file("result.json")};
    words.insert(words.end(), more.begin(), more.end());
    return run(words, environment);
  }
  json result() { return json::parse(read_text(files_.file("result.json"))); }

  TemporaryDirectory files_;
};

std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

TEST_F(Eval, OddLinesAndLongQuestionsAreLeftOutAndNamed) {
  auto lines = problems(3);
  lines.insert(lines.begin() + 1, R"({"question": "a", "answer": "#### 6/7"})");
  std::string tokens;
  for (int i = 0; i < 1200; ++i) tokens += "x ";
  lines.push_back(R"({"question": ")" + tokens + R"(", "answer": "#### 1"})");
  lines.push_back("{\"question\": \"cut o");
  for (const Words& layout : {Words{}, Words{"--attn-tp", "2", "--attn-dp", "2", "--processes"}}) {
    const Outcome outcome = eval(tiny_model, joined(lines), layout);
    EXPECT_EQ(outcome.code, 1) << outcome.err;
    EXPECT_CONTAINS(outcome.out, "exact match: 3 of 3 (100.0 %)\nlast number: 3 of 3 (100.0 %)\n");
    EXPECT_CONTAINS(outcome.out, "3 of 6 problems");
    EXPECT_CONTAINS(outcome.out, "data.jsonl:2: the line has the answer \" 6/7\"");
    EXPECT_CONTAINS(outcome.out, "data.jsonl:5: the line makes a prompt that has ");
    EXPECT_CONTAINS(outcome.out, "data.jsonl:6: the line is no JSON");
    const json all = result();
    EXPECT_EQ(all["problems"], 3);
    ASSERT_EQ(all["left_out"].size(), 3U);
    EXPECT_EQ(all["left_out"][0]["line"], 2);
  }
}

TEST_F(Eval, NumbersAreComparedNotTexts) {
  auto lines = problems(1);  // the model says 6
  const std::string right = lines[0];
  for (const char* gold : {"6.00", "06", "+6"}) {
    lines[0] = right;
    lines[0].replace(lines[0].rfind("#### 6") + 5, 1, gold);
    EXPECT_CONTAINS(eval(tiny_model, joined(lines)).out, "exact match: 1 of 1");
  }
  json seven = json::parse(right);
  seven["answer"] = 7;
  EXPECT_CONTAINS(eval(tiny_model, seven.dump()).out, "exact match: 0 of 1");
}

TEST_F(Eval, ShowsSomeProblemsAndAsksTheOthers) {
  const Outcome outcome = eval(tiny_model, joined(problems(5)), {"--shots", "2", "--limit", "2"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  const json all = result();
  EXPECT_EQ(all["shots"], 2);
  ASSERT_EQ(all["details"].size(), 2U);
  EXPECT_EQ(all["details"][0]["line"], 3);
  EXPECT_EQ(all["details"][1]["line"], 4);
}

/// A question that leaves less room than others must not shorten their answers.
TEST_F(Eval, ALongQuestionTakesNoTokensFromTheOthers) {
  auto lines = problems(1);
  std::string tokens;
  for (int i = 0; i < 505; ++i) tokens += "x ";
  lines.push_back(R"({"question": ")" + tokens + R"(", "answer": "#### 1"})");
  const Outcome outcome = eval(tiny_model, joined(lines));
  EXPECT_EQ(outcome.code, 0) << outcome.out << outcome.err;
  EXPECT_TRUE(result()["details"][0]["right"].get<bool>());
}

// What transformers 5.24 makes of such messages; it differs from what plain jinja2 would.
constexpr const char* chat_template = R"({{- bos_token | default('') }}
{%- for message in messages %}
    {%- if message.role == 'tool' %}{% continue %}{% endif %}
<|{{ message.role }}|>{{ message.content | trim }}{% generation %}{{ eos_token }}{% endgeneration %}
{% endfor %}
{% if add_generation_prompt %}<|assistant|>{% if not thinking is defined or thinking %}hm{% endif %}
{% endif %}{{ {'a': '<b>'} | tojson }})";

TEST_F(Eval, ChatTemplatesAreRunAsTransformersRunsThem) {
  if (!has_jinja()) GTEST_SKIP() << "there is no python3 with jinja2";
  const std::string model = model_copy();
  std::ofstream(model + "/chat_template.jinja") << chat_template;
  const Outcome outcome = run({"decode", "--model", model, "--chat", "--system", "Be brief.", "--prompt",
                               " 1 + 1? ", "--max-new-tokens", "1"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  const std::string expected =
      "<|system|>Be brief.<|endoftext|><|user|>1 + 1?<|endoftext|><|assistant|>hm{\"a\": \"<b>\"}";
  EXPECT_EQ(outcome.out.substr(0, expected.size()), expected);
  const Outcome brief = run({"decode", "--model", model, "--chat", "--chat-option", "thinking=false",
                             "--prompt", "1", "--max-new-tokens", "1"});
  EXPECT_CONTAINS(brief.out, "<|assistant|>{\"a\"");
}

TEST_F(Eval, ChatIsSolvedAsWithoutATemplateThatSaysTheSame) {
  if (!has_jinja()) GTEST_SKIP() << "there is no python3 with jinja2";
  const std::string model = model_copy();
  json config = json::parse(read_text(model + "/tokenizer_config.json"));
  config["chat_template"] = json::array({{{"name", "tool_use"}, {"template", "nothing"}},
                                         {{"name", "default"},
                                          {"template",
                                           "{% for m in messages %}{% if m.role == 'user' %}Question: {{ "
                                           "m.content }}\nAnswer:{% else %} {{ m.content "
                                           "}}\n\n{% endif %}{% endfor %}"}}});
  std::ofstream(model + "/tokenizer_config.json") << config.dump();
  ASSERT_EQ(eval(tiny_model, joined(problems(4)), {"--shots", "1"}).code, 0);
  const json plain = result();
  const Outcome outcome = eval(model, joined(problems(4)), {"--shots", "1", "--chat", "--attn-dp", "2"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const json chat = result();
  EXPECT_EQ(chat["chat"], true);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(chat["details"][i]["text"], plain["details"][i]["text"]);
}

TEST_F(Eval, ChatTemplatesThatFailSayWhy) {
  const std::string model = model_copy();
  const auto with_template = [&](const std::string& text) {
    std::ofstream(model + "/chat_template.jinja") << text;
    return run({"decode", "--model", model, "--chat", "--prompt", "a"},
               {{"MIXCOMM_PYTHON", text == "absent" ? "/nonexistent/python" : ""}});
  };
  const Outcome absent = with_template("absent");
  EXPECT_EQ(absent.code, 2);
  EXPECT_CONTAINS(absent.err, "apt-get install python3-jinja2");
  EXPECT_CONTAINS(absent.err, "/nonexistent/python");
  if (!has_jinja()) GTEST_SKIP() << "there is no python3 with jinja2";
  const Outcome damaged = with_template("{% if %}");
  EXPECT_EQ(damaged.code, 2);
  EXPECT_CONTAINS(damaged.err, "chat_template.jinja: the chat template says: \"TemplateSyntaxError, line 1");
  EXPECT_CONTAINS(with_template("{{ raise_exception('no roles but mine') }}").err, "no roles but mine");
  EXPECT_CONTAINS(with_template("{{ messages.__class__.__mro__ }}").err, "SecurityError");
  EXPECT_CONTAINS(with_template("{% for a in range(9999999) %}{% endfor %}").err, "OverflowError");
}

/// Killed, so that it can end nobody by itself.
TEST_F(Eval, AChatTemplatesPythonEndsWithWhoStartedIt) {
  if (!has_jinja()) GTEST_SKIP() << "there is no python3 with jinja2";
  const std::string model = model_copy();
  std::ofstream(model + "/chat_template.jinja")
      << "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";  // longer than its
                                                                                            // 60 s
  const char* named = std::getenv("MIXCOMM_PYTHON");
  const std::string python = named != nullptr && *named != '\0' ? named : "python3";
  const std::string number = files_.file("pid");
  const std::string wrapper =
      files_.file("python", "#!/bin/sh\necho $$ > " + number + ".draft && mv " + number + ".draft " + number +
                                "\nexec " + python + " \"$@\"\n");
  std::filesystem::permissions(wrapper, std::filesystem::perms::owner_all);
  Running running({"decode", "--model", model, "--chat", "--prompt", "a"}, {{"MIXCOMM_PYTHON", wrapper}});
  const auto wait_for = [](const std::function<bool()>& reached) {
    for (int i = 0; i < 3000 && !reached(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    return reached();
  };
  ASSERT_TRUE(wait_for([&] { return std::filesystem::exists(number); })) << running.err();
  const std::string process = "/proc/" + std::to_string(std::stoi(read_text(number)));
  // It runs the template, and so has asked to end with its parent, once it has read what it was given.
  ASSERT_TRUE(wait_for([&] {
    const std::string mapped = read_text(process + "/maps");
    return mapped.find("_json") != std::string::npos;
  }));
  kill(running.pid(), SIGKILL);
  EXPECT_TRUE(wait_for([&] {
    const std::string status = read_text(process + "/status");  // a zombie until its new parent looks
    return status.empty() || status.find("State:\tZ") != std::string::npos;
  })) << "the template still runs";
  EXPECT_EQ(running.finish().code, 128 + SIGKILL);
}

/// The tiny model with rows behind those of its tokens, in the head and in the embedding: copies of rows,
/// doubled, of which some win.
std::string padded_weights() {
  const std::string text = read_text(tiny_model + "/model.safetensors");
  std::uint64_t length = 0;
  std::memcpy(&length, text.data(), sizeof length);
  json header = json::parse(text.substr(8, length));
  const std::string data = text.substr(8 + length);
  constexpr std::size_t more_rows = 256;
  std::string padded;
  json places;
  for (auto& [name, tensor] : header.items()) {
    if (name == "__metadata__") continue;
    const auto begin = tensor["data_offsets"][0].get<std::size_t>();
    std::string bytes = data.substr(begin, tensor["data_offsets"][1].get<std::size_t>() - begin);
    if (name.find("lm_head") != std::string::npos || name.find("embed_tokens") != std::string::npos) {
      const std::size_t row = bytes.size() / tensor["shape"][0].get<std::size_t>();
      std::string rows = bytes.substr(0, more_rows * row);
      for (std::size_t i = 0; i < rows.size(); i += 2) {  // bf16: one exponent more is twice as much
        std::uint16_t value = 0;
        std::memcpy(&value, &rows[i], 2);
        if ((value & 0x7F80U) != 0) value = static_cast<std::uint16_t>(value + 0x80U);
        std::memcpy(&rows[i], &value, 2);
      }
      bytes += rows;
      tensor["shape"][0] = tensor["shape"][0].get<std::size_t>() + more_rows;
    }
    tensor["data_offsets"] = {padded.size(), padded.size() + bytes.size()};
    padded += bytes;
    places[name] = tensor;
  }
  const std::string places_text = places.dump();
  length = places_text.size();
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, sizeof length);
  return file + places_text + padded;
}

TEST_F(Eval, PaddedVocabulariesHaveIdsWithoutText) {
  const std::string model = model_copy();
  std::filesystem::remove(model + "/model.safetensors");
  std::ofstream(model + "/model.safetensors", std::ios::binary) << padded_weights();
  json config = json::parse(read_text(model + "/config.json"));
  config["vocab_size"] = 1024 + 256;
  std::ofstream(model + "/config.json") << config.dump();
  const json generation{{"eos_token_id", {1021, 151645}}};
  std::ofstream(model + "/generation_config.json") << generation.dump();

  const Outcome outcome = eval(model, joined(problems(8)), {"--max-new-tokens", "48"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_CONTAINS(outcome.out, "exact match: ");
  EXPECT_CONTAINS(outcome.err, "mixcomm: note: ");
  EXPECT_CONTAINS(outcome.err, "eos_token_id 151645");
  const Outcome decoded =
      run({"decode", "--model", model, "--dtype", "fp32", "--max-new-tokens", "48", "--json", "--prompt",
           "Tom has 12 apples. He buys 30 more. How many apples does Tom have now?"});
  EXPECT_EQ(decoded.code, 0) << decoded.err;
  int beyond = 0;
  const json tokens = json::parse(decoded.out)["continuations"][0]["tokens"];
  for (const json& id : tokens) beyond += id.get<int>() >= 1024 ? 1 : 0;
  EXPECT_GT(beyond, 0) << tokens;  // else this shows nothing
  EXPECT_EQ(run({"plan", "--model", model, "--attn-tp", "2"}).code, 0);
}

/// On busy processors, too.
TEST_F(Eval, SharesOfLatencyAreSharesOfOneTime) {
  for (int round = 0; round < 3; ++round) {
    const Outcome outcome = run({"decode", "--model", tiny_model, "--attn-tp", "2", "--attn-dp", "2",
                                 "--prompt", "x", "--max-new-tokens", "2", "--json"});
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    const json latency = json::parse(outcome.out)["latency"];
    const double share = latency["collectives_share"].get<double>();
    EXPECT_LE(share, 1);
    EXPECT_LE(latency["collectives_share_without_waiting"].get<double>(), share);
  }
}

}  // namespace
}  // namespace mixcomm::test
