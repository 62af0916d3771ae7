// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// tomograd weights fetch: a published file by name into ${XDG_CACHE_HOME:-~/.cache}/tomograd, by the program curl. It is loaded under
// another name, resumed where an earlier try stopped, and renamed only once its SHA-256 agrees with the manifest. Where nobody has
// published a digest it says so, and a file is taken only if it reads as the network that the manifest names.
#include <tomograd/infer.hpp>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <memory>

#include "commands.hpp"
#include "support/cli.hpp"
#include "support/manifest.hpp"

namespace {

namespace fs = std::filesystem;
namespace tg = tomograd;

struct FetchOptions {
  std::string name, manifest;
  fs::path folder;
  bool list = false;
};

fs::path cache_folder() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache && *cache) return fs::path(cache) / "tomograd";
  const char* home = std::getenv("HOME");
  if (!home || !*home) tg::fail("fetch: neither XDG_CACHE_HOME nor HOME is set", "--to FOLDER");
  return fs::path(home) / ".cache" / "tomograd";
}

/// Runs a program without a shell; its exit code, 127 where it is not found, -1 where a signal ended it.
int run_program(const std::vector<std::string>& arguments) {
  std::vector<char*> argv;
  for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  const pid_t child = fork();
  if (child < 0) tg::fail("fetch: cannot start " + arguments[0]);
  if (child == 0) {
    execvp(argv[0], argv.data());
    _exit(127);
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/// Whether the file is the published one, as far as that can be told; says nothing of one that is not there.
bool is_published(const fs::path& path, const manifest::Published& p) {
  std::error_code error;
  const auto size = fs::file_size(path, error);
  if (error || (p.bytes && size != p.bytes)) return false;
  if (!p.sha256.empty()) return tg::sha256_file(path).starts_with(p.sha256);
  try {
    const tg::Architecture a = tg::guess_architecture(tg::weights::read_state_dict(path));
    return a.name == p.architecture && a.classes == p.classes;
  } catch (const tg::Error&) {
    return false;
  }
}
/// What is_published() went by.
std::string checked(const manifest::Published& p) {
  if (!p.sha256.empty()) return "SHA-256 " + p.sha256.substr(0, 8) + "… as published";
  return "cannot be checked, no digest of it is known; it reads as " + p.architecture + " with " + std::to_string(p.classes) + " classes";
}

int fetch(const FetchOptions& o) {
  const auto all = manifest::read(o.manifest);
  if (o.list || o.name.empty()) {
    if (!o.list) tg::fail("fetch: which weights?", "a name from 'tomograd weights fetch --list'");
    for (const auto& p : all)
      std::printf("%-30s %7.1f MiB  top-1 %6.3f %% on %-24s %s%s\n", p.name.c_str(), p.mib, p.top1, p.of.c_str(), p.licence.c_str(),
                  p.sha256.empty() ? "; no digest known" : "");
    return 0;
  }
  const auto it = std::find_if(all.begin(), all.end(), [&](const auto& p) { return p.name == o.name; });
  if (it == all.end()) {
    std::string known;
    for (const auto& p : all) known += (known.empty() ? "" : ", ") + p.name;
    tg::fail("fetch: \"" + o.name + "\" is not in the manifest", known);
  }
  const manifest::Published& p = *it;
  const fs::path folder = o.folder.empty() ? cache_folder() : o.folder;
  const fs::path path = folder / p.file, part = folder / (p.file + ".part");
  const std::string by_hand = "load " + p.url + " elsewhere and put it at " + path.string();
  std::error_code error;
  if (is_published(path, p)) {
    std::printf("%s\n", path.string().c_str());
    std::fprintf(stderr, "already there, %s\n", checked(p).c_str());
    return 0;
  }
  fs::create_directories(folder, error);
  if (error) tg::fail("fetch: cannot make " + folder.string() + " (" + error.message() + ")", "--to FOLDER");

  if (p.sha256.empty()) fs::remove(part, error);  // whether pieces fit together could not be told
  cli::Bar bar;
  const bool terminal = isatty(STDERR_FILENO) != 0;
  for (bool resumed = fs::exists(part, error) && fs::file_size(part, error) > 0;; resumed = false) {
    if (!is_published(part, p)) {
      bar.say((resumed ? "going on with " : "loading ") + p.url);
      std::vector<std::string> command{"curl",
                                       "--fail",
                                       "--location",
                                       "--proto",
                                       "=https,http,file",
                                       "--proto-redir",
                                       "=https",
                                       "--connect-timeout",
                                       "20",
                                       "--speed-limit",
                                       "1000",
                                       "--speed-time",
                                       "60",
                                       "--retry",
                                       "2"};
      if (terminal)
        command.push_back("--progress-bar");
      else
        command.insert(command.end(), {"--silent", "--show-error"});
      if (resumed) command.insert(command.end(), {"--continue-at", "-"});
      command.insert(command.end(), {"--output", part.string(), "--", p.url});
      const int code = run_program(command);
      if (code == 127) tg::fail("fetch: the program curl is not here", "install curl, or " + by_hand);
      const bool useless = code == 22 || code == 33 || code == 36;  // the server does not know the file, or cannot resume
      if (code != 0 && resumed && useless) {
        fs::remove(part, error);
        continue;
      }
      if (code != 0)
        tg::fail("fetch: curl could not load " + p.url + " (exit code " + std::to_string(code) + ")" +
                     (fs::exists(part, error) ? "; what came is kept, the same command goes on from there" : ""),
                 "without network: " + by_hand);
    }
    if (is_published(part, p)) break;
    const auto size = fs::file_size(part, error);
    const std::string digest = tg::sha256_file(part);
    fs::remove(part, error);
    if (resumed) {  // the beginning was of another version, or damaged
      bar.say("the pieces do not fit together, loading it whole");
      continue;
    }
    tg::fail(
        "fetch: what came from " + p.url + " is not the published file: " + std::to_string(size) + " bytes, SHA-256 " +
            digest.substr(0, 12) + "…, expected " + (p.bytes ? std::to_string(p.bytes) + " bytes, " : "") +
            (p.sha256.empty() ? "a " + p.architecture + " with " + std::to_string(p.classes) + " classes" : p.sha256.substr(0, 12) + "…") +
            "; it was removed",
        "try again, or " + by_hand);
  }
  fs::rename(part, path, error);
  if (error) tg::fail("fetch: cannot rename " + part.string() + " to " + path.string() + " (" + error.message() + ")");
  bar.say(p.name + ": " + checked(p) + "; " + p.describe());
  std::printf("%s\n", path.string().c_str());
  return 0;
}

}  // namespace

Command add_weights_fetch(CLI::App& app) {
  auto o = std::make_shared<FetchOptions>();
  app.add_option("name", o->name, "Name, such as resnet50.tv_v1");
  app.add_flag("--list", o->list, "List what is known");
  app.add_option("--manifest", o->manifest, "Another list than the built-in one, in the format of weights/manifest.json");
  app.add_option("--to", o->folder, "Folder to put it into (default: tomograd in the user's cache)");
  return [o] { return fetch(*o); };
}
