// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Keras: ResNet-50 with seeded weights under the names of keras.applications must give Keras's own logits (weights/make_keras_goldens.py),
// as a trainable net and as a graph; a model that Keras saved runs its graph. Where libhdf5 is there, files of strangers are refused.
#include <gtest/gtest.h>

#include <tomograd/core/file.hpp>
#include <tomograd/infer.hpp>
#include <tomograd/weights/keras.hpp>
#if defined(TOMOGRAD_WITH_HDF5)
#include <tomograd/weights/hdf5.hpp>
#endif

#include "support/data.hpp"
#include "support/errors.hpp"
#include "support/nets.hpp"
#include "support/npy.hpp"
#include "weights/builders.hpp"

namespace {
using namespace tomograd_test;
namespace tg = tomograd;
namespace keras = tg::weights::keras;

tg::weights::Source nothing() { return tg::weights::Source::memory({}, "net.h5"); }
/// As make_keras_goldens.py fills it; in the file's own order of elements.
void put(keras::File& file, const std::string& layer, const std::string& role, const tg::Shape& shape, const std::string& written = {}) {
  tg::Tensor line = tg::empty({shape.count()});
  const std::string name = layer + "/" + role;
  if (role == "moving_variance")
    fill_uniform(line, name, 0.5, 1);
  else if (role == "gamma")
    fill_uniform(line, name, 0.2, layer.ends_with("_3_bn") ? 0.3 : 0.9);
  else if (shape.dims() == 1)
    fill_uniform(line, name, 0.3);
  else if (shape.dims() == 2)
    fill_uniform(line, name, std::sqrt(1.0 / static_cast<double>(shape[0])));
  else
    fill_uniform(line, name, std::sqrt(6.0 / static_cast<double>(shape[0] * shape[1] * shape[3])));
  file.datasets.push_back({written.empty() ? layer + "/" + name + ":0" : written, line.view(shape)});
}
/// Weights alone of keras.applications.ResNet50 with seven classes.
keras::File resnet50() {
  keras::File file;
  const auto unit = [&](const std::string& stem, std::int64_t k, std::int64_t in, std::int64_t out) {
    put(file, stem + "_conv", "kernel", {k, k, in, out});
    put(file, stem + "_conv", "bias", {out});
    for (const char* role : {"gamma", "beta", "moving_mean", "moving_variance"}) put(file, stem + "_bn", role, {out});
  };
  unit("conv1", 7, 3, 64);
  std::int64_t in = 64;
  for (int stage = 2; stage <= 5; ++stage) {
    constexpr int kBlocks[] = {3, 4, 6, 3};
    const std::int64_t width = 64 << (stage - 2);
    for (int b = 1; b <= kBlocks[stage - 2]; ++b) {
      const std::string stem = "conv" + std::to_string(stage) + "_block" + std::to_string(b) + "_";
      if (b == 1) unit(stem + "0", 1, in, 4 * width);
      unit(stem + "1", 1, in, width);
      unit(stem + "2", 3, width, width);
      unit(stem + "3", 1, width, 4 * width);
      in = 4 * width;
    }
  }
  put(file, "predictions", "kernel", {2048, 7});
  put(file, "predictions", "bias", {7});
  return file;
}
tg::Tensor golden(const std::string& name) {
  const Npy a = read_npy(source_dir() / "tests/goldens/keras" / (name + ".npy"));
  return tg::from_vector(a.as<float>(), tg::Shape(std::span<const std::int64_t>(a.shape)));
}
tg::Tensor pictures(std::int64_t n, std::int64_t size, double scale) {
  tg::Tensor line = tg::empty({n * size * size * 3});
  fill_uniform(line, "input", scale);
  return line.view({n, size, size, 3});
}
double largest(const tg::Tensor& a, const tg::Tensor& b) {
  double worst = a.shape() == b.shape() ? 0 : INFINITY;
  for (std::int64_t i = 0; i < b.count() && worst < INFINITY; ++i)
    worst = worse(worst, std::abs(static_cast<double>(a.data<float>()[i]) - static_cast<double>(b.data<float>()[i])));
  return worst;
}

TEST(Keras, ResNet50GivesKerasLogits) {
  const auto x = pictures(2, 64, 100), expected = golden("resnet50");
  const auto graph = keras::graph_of(resnet50(), nothing());
  EXPECT_EQ(graph.assumed.at("preprocessing.order"), "bgr");
  EXPECT_LT(largest(tg::OnnxNet(graph).forward(x), expected), 1e-4);
  const auto file = tg::weights::onnx::resnet_state_dict(graph, nothing());
  EXPECT_EQ(tg::guess_architecture(file).name, "resnet50_v1");
  EXPECT_TRUE(
      mentions(joined(file.notes), {"53 convolutions into running means", "epsilon is not 1e-5 in 53", "weights alone", "first 1x1"}));
  auto net = tg::make_model("resnet50_v1", {.classes = 7, .initialise = false});
  (void)tg::load_weights(*net, file);
  net->eval();
  EXPECT_LT(largest((*net)(x), expected), 1e-4);
  auto other = tg::make_model("resnet50", {.classes = 7});
  EXPECT_TRUE(mentions(error_of([&] { (void)tg::load_weights(*other, file); }), {"resnet50_v1", "strides"}));
  std::string assumed;
  const auto how = tg::preprocessing_of(file, "resnet50_v1", &assumed);
  EXPECT_EQ(how.order, tg::ColourOrder::bgr);
  EXPECT_EQ(how.mean, (std::vector<double>{103.939, 116.779, 123.68}));
  EXPECT_TRUE(mentions(assumed, {"assumed", "keras.applications", "BGR"}));
}

TEST(Keras, OldNamesAndOldEpsilon) {
  keras::File file;
  for (const auto& d : resnet50().datasets) {  // conv2_block1_0_conv is res2a_branch1, conv1_conv is conv1
    std::string layer = d.path.substr(0, d.path.find('/')), role = d.path.substr(d.path.rfind('/') + 1);
    role.resize(role.size() - 2);
    const bool norm = layer.ends_with("_bn");
    if (layer.starts_with("conv1_")) {
      layer = norm ? "bn_conv1" : "conv1";
    } else if (layer.starts_with("conv")) {
      const char stage = layer[4], block = static_cast<char>('a' + layer[11] - '1'), k = layer[13];
      layer = std::string(norm ? "bn" : "res") + stage + block +
              (k == '0' ? "_branch1" : std::string("_branch2") + static_cast<char>('a' + k - '1'));
    } else {
      layer = "fc1000";
    }
    const std::map<std::string, std::string> roles{{"kernel", "W"},
                                                   {"bias", "b"},
                                                   {"gamma", "gamma"},
                                                   {"beta", "beta"},
                                                   {"moving_mean", "running_mean"},
                                                   {"moving_variance", "running_std"}};
    file.datasets.push_back({layer + "/" + layer + "_" + roles.at(role) + "_1:0", d.tensor});
  }
  const auto first = tg::weights::onnx::resnet_state_dict(keras::graph_of(file, nothing()), nothing());
  const auto now = tg::weights::onnx::resnet_state_dict(keras::graph_of(resnet50(), nothing()), nothing());
  ASSERT_EQ(first.entries.size(), now.entries.size());
  for (const auto& e : now.entries) {
    const tg::Tensor* o = first.find(e.name);
    ASSERT_TRUE(o) << e.name;
    if (e.name.ends_with("running_var"))
      EXPECT_NEAR(o->data<float>()[0] - e.tensor.data<float>()[0], 1e-3 - 1.001e-5, 1e-6) << e.name;
    else
      EXPECT_TRUE(same_bits(*o, e.tensor)) << e.name;
  }
}

TEST(Keras, FilesThatCannotBeNets) {
  const keras::File whole = resnet50();
  const auto error = [&](const auto& change) {
    keras::File file = whole;
    change(file);
    return error_of([&] { (void)tg::OnnxNet(keras::graph_of(std::move(file), nothing())); });
  };
  using D = keras::File::Dataset;
  EXPECT_TRUE(mentions(error([](keras::File& f) {
                         f.datasets.push_back({"post_bn/post_bn/gamma:0", tg::zeros({4})});
                       }),
                       {"pre-activation", "V2"}));
  EXPECT_TRUE(mentions(error([](keras::File& f) {
                         f.datasets = {{"dense/dense/kernel:0", tg::zeros({4, 4})}};
                       }),
                       {"weights alone", "dense", "model.save"}));
  EXPECT_TRUE(mentions(error([](keras::File& f) { f.datasets = {{"layers/conv2d/vars/0", tg::zeros({4})}}; }), {".weights.h5 of Keras 3"}));
  EXPECT_TRUE(mentions(error([](keras::File& f) { f.datasets.clear(); }), {"without the weights"}));
  EXPECT_TRUE(mentions(error([](keras::File& f) { f.datasets.push_back(f.datasets[0]); }), {"twice"}));
  EXPECT_TRUE(mentions(error([](keras::File& f) {
                         std::erase_if(f.datasets, [](const D& d) { return d.path.find("conv1_bn/moving_mean") != std::string::npos; });
                       }),
                       {"conv1_bn", "no mean"}));
  EXPECT_TRUE(mentions(error([](keras::File& f) { f.datasets[0].tensor = tg::zeros({7, 7, 64}); }), {"conv1_conv", "3 axes"}));
  EXPECT_TRUE(mentions(error([](keras::File& f) { f.attributes["model_config"] = "{"; }), {"model_config", "JSON"}));
  EXPECT_TRUE(mentions(error([](keras::File& f) { f.attributes["model_config"] = R"({"class_name": "Mine", "config": {"layers": []}})"; }),
                       {"class \"Mine\""}));
  EXPECT_TRUE(mentions(error([](keras::File& f) {
                         f.attributes["model_config"] =
                             R"({"class_name": "Sequential", "config": {"layers": [{"class_name": "LSTM", "config": {"name": "a"}}]}})";
                       }),
                       {"not known here: LSTM (1)"}));
  // Absurd numbers in the configuration.
  for (const char* bad : {R"("kernel_size": [-3, 1e30])", R"("strides": [0.5, 2])", R"("dilation_rate": 99999999999)",
                          R"("padding": [[1,2],[3]])", R"("epsilon": -1)"})
    EXPECT_FALSE(
        error([&](keras::File& f) {
          f.attributes["model_config"] =
              std::string(
                  R"({"class_name": "Sequential", "config": {"layers": [{"class_name": "ZeroPadding2D", "config": {"name": "a", )") +
              bad + "}}]}}";
        }).empty())
        << bad;
}

#if !defined(TOMOGRAD_WITH_HDF5)
TEST(Keras, WithoutTheLibraryTheErrorSaysSo) {
  const std::string bytes("\x89HDF\r\n\x1A\n and more", 17);
  EXPECT_TRUE(mentions(error_of([&] { (void)tg::weights::read_state_dict(as_bytes(bytes)); }), {"HDF5", "libhdf5"}));
}
#else

class KerasFile : public ::testing::Test {
 protected:
  void SetUp() override { tg::weights::use_libhdf5(); }
  static std::filesystem::path small() { return source_dir() / "tests/goldens/keras/small.h5"; }
  /// A file with one data set "conv1_conv/kernel:0" made by make(file).
  template <class F>
  std::string error_with(F make) {
    TemporaryFolder folder;
    const auto path = folder / "a.h5";
    const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    make(file);
    H5Fclose(file);
    largest_block() = 0;
    const std::string why = error_of([&] { (void)tg::weights::read_state_dict(path); });
    EXPECT_LT(largest_block().load(), std::size_t{4} << 20);
    return why;
  }
  static void dataset(hid_t file, const char* name, std::vector<hsize_t> sizes, hid_t how = H5P_DEFAULT) {
    const hid_t space = H5Screate_simple(static_cast<int>(sizes.size()), sizes.data(), nullptr);
    const hid_t d = H5Dcreate2(file, name, H5T_NATIVE_FLOAT, space, H5P_DEFAULT, how, H5P_DEFAULT);
    if (d >= 0) H5Dclose(d);
    H5Sclose(space);
  }
};

TEST_F(KerasFile, ASavedModelRunsItsGraph) {
  const auto graph = tg::load_graph(small());
  EXPECT_EQ(graph->input(), (std::vector<std::int64_t>{-1, 20, 20, 3}));
  EXPECT_TRUE(graph->producer().starts_with("Keras 3"));
  const auto x = pictures(2, 20, 127), expected = golden("small");
  EXPECT_LT(largest(graph->forward(x), expected), 1e-5);
  EXPECT_LT(largest(tg::Session(tg::compile(*graph, {2, 20, 20, 3})).run(x), expected), 1e-5);
  const std::string bytes = tg::read_file(small());  // from memory, too
  EXPECT_LT(largest(tg::load_graph(tg::weights::Source::memory(as_bytes(bytes)))->forward(x), expected), 1e-5);
  EXPECT_TRUE(mentions(error_of([&] { (void)tg::weights::read_state_dict(small()); }), {"none of the ResNets"}));
}

TEST_F(KerasFile, CutAtEveryPercent) {
  const std::string bytes = tg::read_file(small());
  TemporaryFolder folder;
  for (std::size_t percent = 0; percent < 100; ++percent) {
    const std::string cut = bytes.substr(0, bytes.size() * percent / 100);
    tg::write_file(folder / "cut.h5", cut);
    EXPECT_TRUE(mentions(error_of([&] { (void)tg::load_graph(folder / "cut.h5"); }), {"cut.h5"})) << percent;
    EXPECT_FALSE(error_of([&] { (void)tg::load_graph(tg::weights::Source::memory(as_bytes(cut))); }).empty()) << percent;
  }
}

TEST_F(KerasFile, WhatLeadsOutOfTheFileOrClaimsMemoryIsRefused) {
  EXPECT_TRUE(mentions(error_with([](hid_t f) { H5Lcreate_external("/etc/passwd", "/", f, "conv1_conv", H5P_DEFAULT, H5P_DEFAULT); }),
                       {"link to another file"}));
  EXPECT_TRUE(mentions(error_with([](hid_t f) { H5Lcreate_soft("/", f, "conv1_conv", H5P_DEFAULT, H5P_DEFAULT); }), {"is a link"}));
  EXPECT_TRUE(mentions(error_with([](hid_t f) { H5Lcreate_hard(f, "/", f, "conv1_conv", H5P_DEFAULT, H5P_DEFAULT); }),
                       {"under two names"}));  // a cycle
  EXPECT_TRUE(mentions(error_with([](hid_t f) {
                         const hid_t how = H5Pcreate(H5P_DATASET_CREATE);
                         H5Pset_external(how, "/etc/passwd", 0, 64);
                         dataset(f, "kernel:0", {16}, how);
                         H5Pclose(how);
                       }),
                       {"data in other files"}));
  EXPECT_TRUE(mentions(error_with([](hid_t f) {  // a million million numbers that were never written
                         const hid_t how = H5Pcreate(H5P_DATASET_CREATE);
                         const hsize_t chunk[] = {64, 64};
                         H5Pset_chunk(how, 2, chunk);
                         dataset(f, "kernel:0", {1 << 20, 1 << 20}, how);
                         H5Pclose(how);
                       }),
                       {"no data"}));
  EXPECT_TRUE(mentions(error_with([](hid_t f) {
                         const hid_t how = H5Pcreate(H5P_DATASET_CREATE);
                         const hsize_t chunk[] = {1 << 14, 1 << 14};
                         H5Pset_chunk(how, 2, chunk);
                         dataset(f, "kernel:0", {1 << 20, 1 << 20}, how);
                         H5Pclose(how);
                       }),
                       {"chunks larger"}));
  EXPECT_TRUE(mentions(error_with([](hid_t f) { dataset(f, "kernel:0", {1 << 20, 1 << 20}); }), {"bytes has 0"}));
  EXPECT_TRUE(mentions(error_with([](hid_t f) {
                         const hid_t how = H5Pcreate(H5P_DATASET_CREATE);
                         const hsize_t chunk[] = {4};
                         H5Pset_chunk(how, 1, chunk);
                         H5Pset_scaleoffset(how, H5Z_SO_FLOAT_DSCALE, 2);
                         dataset(f, "kernel:0", {16}, how);
                         H5Pclose(how);
                       }),
                       {"filter", "scaleoffset"}));
  EXPECT_TRUE(mentions(error_with([](hid_t) {}), {"without the weights"}));
}

TEST_F(KerasFile, RealModel) {
  TOMOGRAD_NEED_DATA(path, "formats/keras/pretrainedResnet.h5");
  const auto graph = tg::load_graph(path);
  EXPECT_EQ(graph->last_op(), "Softmax");
  EXPECT_EQ(graph->forward(golden_picture(2, 32)).shape(), (tg::Shape{2, 10}));
  EXPECT_TRUE(mentions(error_of([&] { (void)tg::weights::read_state_dict(path); }), {"none of the ResNets"}));
}
#endif

}  // namespace
