#include "tools/command.hpp"
namespace mixcomm::tools {
void add_plan(CLI::App& app, Invocation& invocation) { (void)app; (void)invocation; }
}
