#include "tools/model/chat_template.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <optional>
#include <string>
#include <system_error>

#include "mixcomm/error.hpp"
#include "runner/json_file.hpp"
#include "runner/mapped_file.hpp"
#include "runner/utf8.hpp"
#include "tools/command/output.hpp"
#include "tools/model/subprocess.hpp"

namespace mixcomm::tools {
namespace {

constexpr std::size_t most_bytes = std::size_t{16} << 20U;

constexpr int no_jinja = 3;  ///< exit codes of the script
constexpr int refused = 4;

/// Reads {"template", "variables", "conversations"} and writes a list of texts, both as ASCII JSON. Templates
/// come with models, from anybody: the sandbox keeps them from the system, the limits from running for ever.
/// What they find there is what transformers gives them.
constexpr const char* script = R"python(
import sys
sys.path[:] = [place for place in sys.path if place]  # no jinja2.py of the directory that this runs in
import ctypes, os, signal
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it ends with who started it,
try:  # who may have ended before
    with open(f"/proc/{sys.argv[1]}/stat") as stat:
        gone = stat.read().rpartition(")")[2].split()[0] in "ZX"
except OSError:
    gone = os.path.exists("/proc/self/stat")
if gone:
    sys.exit(1)
import datetime, json, resource
try:
    import jinja2, jinja2.ext, jinja2.nodes
    from jinja2.sandbox import ImmutableSandboxedEnvironment
except ImportError as error:
    print(error, file=sys.stderr)
    sys.exit(3)
numbers = [int("".join(filter(str.isdigit, part)) or 0) for part in jinja2.__version__.split(".")]
if numbers < [3, 1, 6] and "dist-packages" not in jinja2.__file__:  # Debian's older ones have the fixes
    print(f"jinja2 {jinja2.__version__} is there, whose sandbox has holes; 3.1.6 closes them", file=sys.stderr)
    sys.exit(3)

signal.alarm(60)
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))


class Generation(jinja2.ext.Extension):
    """{% generation %}, which marks what to train on: here its body alone counts."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


def raise_exception(message):
    raise jinja2.TemplateError(message)


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


task = json.load(sys.stdin.buffer)
try:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    template = environment.from_string(task["template"])
    given = {"tools": None, "documents": None, "add_generation_prompt": True, **task["variables"]}
    texts = [template.render({**given, "messages": messages}) for messages in task["conversations"]]
except Exception as error:
    line = f", line {error.lineno}" if isinstance(error, jinja2.TemplateSyntaxError) else ""
    print(f"{type(error).__name__}{line}: {error}", file=sys.stderr)
    sys.exit(4)
json.dump(texts, sys.stdout)
)python";

bool is_there(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

/// A template, or a list of {"name", "template"}.
std::string template_in(const runner::JsonView& field) {
  if (!field.value().is_array()) return field.as_string();
  for (std::size_t i = 0; i < field.as_array().size(); ++i) {
    const runner::JsonView each = field.element(i);
    if (each.at("name").as_string() == "default") return each.at("template").as_string();
  }
  field.fail("has no template named \"default\"");
}

std::string interpreter() {
  const char* named = std::getenv("MIXCOMM_PYTHON");
  return named != nullptr && *named != '\0' ? named : "python3";
}

/// Of what Python wrote, printable: a template may say anything.
std::string last_line(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  const std::size_t line = text.rfind('\n');
  return runner::in_quotes(line == std::string::npos ? text : text.substr(line + 1));
}

[[noreturn]] void refuse_interpreter(const std::string& why) {
  throw Unsupported(
      fmt::format("chat templates need Python 3 with jinja2: {}; install it (apt-get install python3-jinja2, "
                  "or pip install -U jinja2), or name a Python that has it in MIXCOMM_PYTHON",
                  why));
}

Finished run_script(const std::string& input) {
  try {
    return run_program({interpreter(), "-c", script, std::to_string(getpid())}, input);
  } catch (const SystemError& error) {
    refuse_interpreter(error.what());
  }
}

}  // namespace

ChatTemplate::ChatTemplate(const std::filesystem::path& directory) {
  const std::filesystem::path own_file = directory / "chat_template.jinja";
  if (is_there(own_file)) {
    const runner::MappedFile file(own_file);
    if (file.bytes().size() > most_bytes || !runner::is_utf8(file.text()))
      throw InvalidArgument(
          fmt::format("{}: must be UTF-8 of at most {} bytes", own_file.string(), most_bytes));
    origin_ = own_file.string();
    template_ = file.text();
  }
  for (const char* name : {"tokenizer_config.json", "chat_template.json"}) {
    const std::filesystem::path path = directory / name;
    if (!is_there(path)) continue;
    const runner::Json document = runner::read_json_file(path, most_bytes);
    const runner::JsonView root(document, path.string());
    if (const auto field = root.find("chat_template"); field && origin_.empty()) {
      template_ = template_in(*field);
      origin_ = path.string();
    }
    for (const char* token :
         {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}) {
      const auto field = root.find(token);
      if (!field || tokens_.contains(token)) continue;
      tokens_[token] = field->value().is_object() ? field->at("content").as_string() : field->as_string();
    }
  }
  if (origin_.empty())
    throw InvalidArgument(
        fmt::format("{}: has no chat template (chat_template.jinja, or \"chat_template\" in "
                    "tokenizer_config.json); leave out --chat",
                    directory.string()));
}

std::vector<std::string> ChatTemplate::texts(const std::vector<Conversation>& conversations,
                                             const Json& variables) const {
  Json task{{"template", template_}, {"variables", tokens_}, {"conversations", Json::array()}};
  task["variables"].update(variables);
  for (const Conversation& conversation : conversations) {
    Json messages = Json::array();
    for (const Message& message : conversation)
      messages.push_back({{"role", message.role}, {"content", message.content}});
    task["conversations"].push_back(std::move(messages));
  }
  const Finished done = run_script(dump(task));
  if (done.code == no_jinja) refuse_interpreter(fmt::format("'{}': {}", interpreter(), last_line(done.err)));
  if (done.code == refused)
    throw InvalidArgument(fmt::format("{}: the chat template says: {}", origin_, last_line(done.err)));
  if (done.code == 128 + SIGALRM)
    throw InvalidArgument(fmt::format("{}: the chat template ran for more than 60 s", origin_));
  const Json texts = Json::parse(done.out, nullptr, false);
  if (done.code != 0 || !texts.is_array() || texts.size() != conversations.size())
    refuse_interpreter(
        fmt::format("'{}' ended with code {}: {}", interpreter(), done.code, last_line(done.err)));
  return texts.get<std::vector<std::string>>();
}

}  // namespace mixcomm::tools
