// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// tomograd selftest: one line, whether this machine computes the bits that the weight file promises. `weights convert --selftest` writes
// them.
#include <tomograd/infer.hpp>
#include <tomograd/infer/selftest.hpp>

#include <memory>

#include "commands.hpp"
#include "support/cli.hpp"

namespace {

namespace tg = tomograd;

int selftest(const std::string& path) {
  tg::set_num_threads(1);
  const tg::weights::StateDict file = tg::weights::read_state_dict(std::filesystem::path(path));
  if (!tg::has_selftest(file.metadata)) tg::fail(path + ": carries no self-test", "tomograd weights convert IN OUT --selftest adds one");
  const tg::SelfTest want = tg::selftest_from_metadata(file.metadata);
  const auto net = tg::model_of(file);
  const tg::SelfTest got = tg::run_selftest(*net, want.inputs, want.seed);
  if (!want.weights_sha256.empty() && got.weights_sha256 != want.weights_sha256) {
    std::printf("selftest FAILED: %s: the weights are not those that the file was written with: it is damaged, or was changed\n",
                net->name().c_str());
    return 1;
  }
  if (got.first_logits.size() != want.first_logits.size()) tg::fail(path + ": its self-test does not fit its network", "convert it again");
  const bool same = got.logits_sha256 == want.logits_sha256;
  if (same)
    std::printf("selftest passed: %s, %s, %lld inputs: the same bits (%.16s…)\n", net->name().c_str(), tg::cpu().name().c_str(),
                static_cast<long long>(want.inputs), got.logits_sha256.c_str());
  else
    std::printf("selftest FAILED: %s, %s: other bits than the file promises, logits differ by %.3g or more: %s\n", net->name().c_str(),
                tg::cpu().name().c_str(), tg::largest_difference(got, want),
                got.engine == want.engine ? "weights, build or machine are damaged"
                                          : ("the promise is of " + want.engine + ", this is " + got.engine).c_str());
  return same ? 0 : 1;
}

}  // namespace

Command add_selftest(CLI::App& app) {
  auto path = std::make_shared<std::string>();
  app.add_option("model", *path, "Weight file written with --selftest")->required();
  return [path] { return selftest(*path); };
}
