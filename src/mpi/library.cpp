#include "mpi/library.hpp"

#include <dlfcn.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "mixcomm/error.hpp"

namespace mixcomm::mpi {
namespace {

/// One kind of MPI, whose binary interface is one.
struct Flavour {
  std::string_view name;
  const char* file;                      ///< what is built for it
  std::array<const char*, 2> sonames;    ///< of its own libraries
  std::array<const char*, 2> variables;  ///< that its launchers set
  std::string_view packages;             ///< of Debian, to build with
};
constexpr std::array<Flavour, 2> flavours{Flavour{"openmpi",
                                                  "libmixcomm_openmpi.so",
                                                  {"libmpi.so.40", nullptr},
                                                  {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK"},
                                                  "libopenmpi-dev"},
                                          // Intel MPI, and MPICH from PyPI, have the second name.
                                          Flavour{"mpich",
                                                  "libmixcomm_mpich.so",
                                                  {"libmpich.so.12", "libmpi.so.12"},
                                                  {"PMI_RANK", "PMI_SIZE"},
                                                  "libmpich-dev"}};

constexpr const char* variable = "MIXCOMM_MPI";

/// What went wrong, for an error that tells all of it.
using Tried = std::vector<std::string>;

/// The folders where the library may be: beside what this code is in, or in lib/ beside its folder.
std::vector<std::string> folders() {
  static const char here = 0;
  Dl_info info{};
  if (dladdr(&here, &info) == 0 || info.dli_fname == nullptr) return {};
  const std::string path = info.dli_fname;
  const std::size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash);
  return {folder, folder + "/../lib", folder + "/../" MIXCOMM_LIBRARY_FOLDER};
}

/// Makes MPI's functions visible to the library, which links none. Null where it is not there.
void* open_mpi_library(const Flavour& flavour, int flags) {
  for (const char* soname : flavour.sonames)
    if (soname != nullptr)
      if (void* mpi = dlopen(soname, RTLD_NOW | RTLD_GLOBAL | flags)) return mpi;
  return nullptr;
}

const mixcomm_mpi_table* open_table(const std::string& path, Tried& tried) {
  void* file = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (file == nullptr) {
    const char* error = dlerror();
    tried.push_back(error != nullptr ? error : path);
    return nullptr;
  }
  const auto function = reinterpret_cast<mixcomm_mpi_function>(dlsym(file, "mixcomm_mpi"));
  const mixcomm_mpi_table* table = function != nullptr ? function() : nullptr;
  if (table == nullptr || table->table != MIXCOMM_MPI_TABLE) {
    tried.push_back(fmt::format("{} belongs to another version of mixcomm", path));
    return nullptr;
  }
  return table;
}

/// What is built for that MPI, or a table of null.
Library open_flavour(const Flavour& flavour, Tried& tried) {
  if (open_mpi_library(flavour, 0) == nullptr) {
    const char* error = dlerror();
    tried.push_back(error != nullptr ? error : std::string(flavour.name));
    return {};
  }
  std::vector<std::string> paths;
  for (const std::string& folder : folders()) paths.push_back(folder + "/" + flavour.file);
  paths.emplace_back(flavour.file);  // where the system looks
  Tried failures;
  for (const std::string& path : paths)
    if (const auto* table = open_table(path, failures)) return {table, path};
  tried.push_back(fmt::format("{} is in none of {}", flavour.file, fmt::join(paths, ", ")));
  for (const std::string& each : failures)
    if (each.find("No such file") == std::string::npos) tried.push_back(each);
  return {};
}

/// The MPI that the process has, or that started it; null where nothing tells.
const Flavour* told() {
  for (const Flavour& each : flavours)
    if (open_mpi_library(each, RTLD_NOLOAD) != nullptr) return &each;
  for (const Flavour& each : flavours)
    for (const char* name : each.variables)
      if (std::getenv(name) != nullptr) return &each;
  return nullptr;
}

Library load() {
  Tried tried;
  const char* given = std::getenv(variable);
  const std::string_view wanted = given != nullptr ? given : "";
  if (wanted.find('/') != std::string_view::npos) {
    // Whose it is, its own functions tell: with the right MPI they are found.
    for (const Flavour& each : flavours) {
      if (wanted.find(each.name) == std::string_view::npos) continue;
      (void)open_mpi_library(each, 0);
    }
    if (const auto* table = open_table(std::string(wanted), tried)) return {table, std::string(wanted)};
    throw InvalidArgument(
        fmt::format("{}={} cannot be loaded: {}", variable, wanted, fmt::join(tried, "; ")));
  }
  std::vector<std::string_view> names;
  for (const Flavour& each : flavours) {
    names.push_back(each.name);
    if (wanted != each.name) continue;
    if (Library found = open_flavour(each, tried); found.table != nullptr) return found;
  }
  if (!wanted.empty() && tried.empty())
    throw InvalidArgument(fmt::format(
        "{}={} names no MPI; it may be {}, or the path of a library that mixcomm has built for one", variable,
        wanted, fmt::join(names, ", ")));
  const Flavour* only = wanted.empty() ? told() : nullptr;
  for (const Flavour& each : flavours) {
    if (!wanted.empty() || (only != nullptr && only != &each)) continue;
    if (Library found = open_flavour(each, tried); found.table != nullptr) return found;
  }
  std::vector<std::string_view> packages;
  for (const Flavour& each : flavours) packages.push_back(each.packages);
  throw Unsupported(
      fmt::format("there is no MPI that mixcomm can use: {}. Build mixcomm where the MPI's headers are (on "
                  "Debian {}), or name the "
                  "library in {}",
                  fmt::join(tried, "; "), fmt::join(packages, " or "), variable));
}

}  // namespace

std::string Library::version() const {
  std::array<char, 512> text{};
  table->library(text.data(), text.size());
  const std::string_view all = text.data();
  return std::string(all.substr(0, all.find(',')));
}

void Library::check(int code, const std::string& what) const {
  if (code == 0) return;
  std::array<char, 512> text{};
  table->describe(code, text.data(), text.size());
  throw SystemError(fmt::format("{}: {} says: {}", what, version(), text.data()));
}

const Library& library() {
  static const Library loaded = load();
  return loaded;
}

}  // namespace mixcomm::mpi
