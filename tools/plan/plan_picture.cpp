// A plan as a picture: modules in boxes, one below the other, and what happens on the way.
#include "tools/plan/plan_picture.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <vector>

#include "mixcomm/error.hpp"

namespace mixcomm::tools {
namespace {

/// One boundary, in words.
struct Edge {
  std::string from;
  std::string to;
  std::vector<std::string> lines;
  bool sends;
};

std::vector<Edge> edges_of(const Json& plan) {
  std::vector<Edge> edges;
  for (const Json& boundary : plan["boundaries"]) {
    const auto name = boundary["boundary"].get<std::string>();
    const std::size_t arrow = name.find(" -> ");
    Edge edge{name.substr(0, arrow), name.substr(arrow + 4), {}, false};
    edge.lines.push_back(
        fmt::format("{}x: {}", boundary["count"].get<int>(), boundary["from"].get<std::string>()));
    for (const Json& operation : boundary["operations"]) {
      std::string line = operation["operation"].get<std::string>();
      if (operation.contains("grid")) {
        edge.sends = true;
        line += fmt::format(" on {}, {:.1f} us ({})", operation["grid"].get<std::string>(),
                            operation["us"].get<double>(), operation["algorithm"].get<std::string>());
      }
      edge.lines.push_back(line);
    }
    if (boundary["operations"].empty()) edge.lines.emplace_back("nothing to send");
    for (const Json& addend : boundary["addends"])
      edge.lines.push_back(
          fmt::format("{}: {}", addend["name"].get<std::string>(), addend["added"].get<std::string>()));
    if (const Json& finish = boundary["finish"]; !finish.is_null())
      edge.lines.push_back(
          fmt::format("then: {}", fmt::join(finish["steps"].get<std::vector<std::string>>(), ", ")));
    edge.lines.push_back("to: " + boundary["to"].get<std::string>());
    edges.push_back(edge);
  }
  return edges;
}

std::string title_of(const Json& plan) {
  const Json& p = plan["parallelism"];
  return fmt::format("attention {}x{}, experts {}x{}", p["attn_tp"].get<int>(), p["attn_dp"].get<int>(),
                     p["moe_tp"].get<int>(), p["moe_ep"].get<int>());
}

std::string escaped(const std::string& text, bool xml) {
  std::string result;
  for (const char c : text) {
    if (xml && c == '<')
      result += "&lt;";
    else if (xml && c == '>')
      result += "&gt;";
    else if (xml && c == '&')
      result += "&amp;";
    else if (!xml && (c == '"' || c == '\\'))
      result += std::string("\\") + c;
    else
      result += c;
  }
  return result;
}

std::string dot(const Json& plan) {
  std::string text = fmt::format(
      "digraph plan {{\n  label=\"{}\"; labelloc=t; node [shape=box, fontname=\"sans-serif\"]; edge "
      "[fontname=\"sans-serif\", fontsize=10];\n",
      escaped(title_of(plan), false));
  for (const Edge& edge : edges_of(plan)) {
    std::string label;
    for (const std::string& line : edge.lines) label += escaped(line, false) + "\\l";
    text += fmt::format("  \"{}\" -> \"{}\" [label=\"{}\"{}];\n", escaped(edge.from, false),
                        escaped(edge.to, false), label, edge.sends ? ", penwidth=2" : ", style=dashed");
  }
  return text + "}\n";
}

std::string svg(const Json& plan) {
  constexpr int width = 860;
  constexpr int line_height = 16;
  constexpr int box = 30;
  constexpr int left = 20;
  constexpr int box_width = 230;
  std::string body;
  int y = 50;
  for (const Edge& edge : edges_of(plan)) {
    const int height = static_cast<int>(edge.lines.size()) * line_height + 2 * box + 10;
    const auto rectangle = [&](int at, const std::string& label) {
      body += fmt::format(
          "<rect x='{}' y='{}' width='{}' height='{}' rx='4' fill='#eef' stroke='#446'/>"
          "<text x='{}' y='{}'>{}</text>\n",
          left, at, box_width, box, left + 8, at + 20, escaped(label, true));
    };
    rectangle(y, edge.from);
    rectangle(y + height - box, edge.to);
    body += fmt::format(
        "<line x1='{0}' y1='{1}' x2='{0}' y2='{2}' stroke='{3}' stroke-width='{4}' marker-end='url(#a)'/>\n",
        left + box_width / 2, y + box, y + height - box - 2, edge.sends ? "#b30" : "#999",
        edge.sends ? 3 : 1);
    int at = y + box + line_height;
    for (const std::string& line : edge.lines) {
      body += fmt::format("<text x='{}' y='{}' font-size='12'>{}</text>\n", left + box_width / 2 + 16, at,
                          escaped(line, true));
      at += line_height;
    }
    y += height + 24;
  }
  return fmt::format(
             "<svg xmlns='http://www.w3.org/2000/svg' width='{}' height='{}' font-family='sans-serif' "
             "font-size='14'>\n"
             "<defs><marker id='a' viewBox='0 0 8 8' refX='7' refY='4' markerWidth='4' markerHeight='4' "
             "orient='auto'>"
             "<path d='M0 0L8 4L0 8z' fill='#555'/></marker></defs>\n"
             "<rect width='100%' height='100%' fill='white'/>\n<text x='{}' y='28' "
             "font-size='18'>{}</text>\n",
             width, y, left, escaped(title_of(plan), true)) +
         body + "</svg>\n";
}

}  // namespace

void write_picture(const Json& plan, const std::filesystem::path& path) {
  const std::string extension = path.extension().string();
  if (extension != ".svg" && extension != ".dot" && extension != ".gv")
    throw InvalidArgument(
        fmt::format("--picture: '{}' ends in '{}'; it may be .svg, .dot or .gv", path.string(), extension));
  std::ofstream file(path, std::ios::trunc);
  file << (extension == ".svg" ? svg(plan) : dot(plan));
  file.close();
  if (!file) throw SystemError(fmt::format("cannot write to {}: {}", path.string(), std::strerror(errno)));
}

}  // namespace mixcomm::tools
