#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# Copyright The tomograd authors
#
# Makes tests/goldens/keras/: what Keras itself says of nets whose weights are Philox draws by name (see make_net_goldens.py), so that
# tests/weights/keras_test.cpp can write the same .h5 and compare.
#     resnet50.npy   logits (2,7) of keras.applications.ResNet50 for two seeded pictures of 64x64
#     small.h5       a small model of many kinds of layers, as model.save writes it; small.npy its logits (2,5) for two of 20x20
#
#     python3 weights/make_keras_goldens.py tests/goldens/keras        needs numpy, keras and tensorflow
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import numpy as np
from keras import layers as L

from golden_numbers import uniform


def fill(model):
    for layer in model.layers:
        values = []
        for w in layer.weights:
            role, shape = w.name, tuple(w.shape)
            u = uniform(layer.name + "/" + role, shape)
            if role == "moving_variance":
                v = 1 + 0.5 * u
            elif role == "gamma":
                v = (0.3 if layer.name.endswith("_3_bn") else 0.9) + 0.2 * u
            elif role in ("bias", "beta", "moving_mean"):
                v = 0.3 * u
            elif len(shape) == 2:
                v = u * np.sqrt(1.0 / shape[0])
            else:
                v = u * np.sqrt(6.0 / (shape[0] * shape[1] * shape[3]))
            values.append(v.astype(np.float32))
        if values:
            layer.set_weights(values)


def pictures(n, size, scale):
    return (uniform("input", (n, size, size, 3)) * scale).astype(np.float32)


def small():
    x = L.Input((20, 20, 3), name="picture")
    y = L.Rescaling(1 / 127.5, offset=-1.0, name="scaled")(x)
    y = L.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="stem")(y)  # 20 -> 10: padding (0,1)
    a = L.ZeroPadding2D(((0, 1), (1, 0)), name="pad")(y)
    a = L.DepthwiseConv2D(3, name="depth")(a)
    a = L.BatchNormalization(epsilon=1e-2, scale=False, name="norm")(a)
    a = L.ReLU(6.0, name="relu6")(a)
    a = L.ZeroPadding2D(1, name="pad2")(a)
    a = L.Conv2D(8, 2, dilation_rate=2, use_bias=False, name="wide")(a)
    b = L.Conv2D(8, 1, name="side")(y)
    b = L.MaxPooling2D(2, strides=1, padding="same", name="most")(b)
    b = L.LeakyReLU(negative_slope=0.2, name="leak")(b)
    b = L.AveragePooling2D(3, strides=1, padding="valid", name="mean")(b)
    a = L.Conv2D(8, 2, name="fit")(a)
    y = L.Concatenate(name="both")([L.Add(name="sum")([a, b]), b])
    y = L.Dropout(0.3, name="drop")(y)
    y = L.AveragePooling2D(2, name="half")(y)
    y = L.Flatten(name="flat")(y)
    y = L.Dense(12, activation="tanh", name="hidden")(y)
    return keras.Model(x, L.Dense(5, name="logits")(y))


out = sys.argv[1] if len(sys.argv) == 2 else sys.exit("give the folder to write into")
os.makedirs(out, exist_ok=True)
net = keras.applications.ResNet50(weights=None, classes=7, classifier_activation=None, input_shape=(64, 64, 3))
fill(net)
np.save(os.path.join(out, "resnet50.npy"), net.predict(pictures(2, 64, 100.0), verbose=0))
net = small()
fill(net)
net.save(os.path.join(out, "small.h5"))
np.save(os.path.join(out, "small.npy"), net.predict(pictures(2, 20, 127.0), verbose=0))
for name in ("resnet50", "small"):
    print(name, np.load(os.path.join(out, name + ".npy")))
