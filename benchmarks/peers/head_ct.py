# SPDX-License-Identifier: MIT
# Copyright The tomograd authors
"""The job of examples/head_ct.cpp in PyTorch: a frozen ResNet-50, its last layer trained on head-CT slices, a fifth held out.

    head_ct.py cached  DATA WEIGHTS EPOCHS VIEWS THREADS    features once per slice and view, then a linear layer
    head_ct.py written DATA WEIGHTS EPOCHS VIEWS THREADS    as commonly written: the whole network forward in every epoch

./run bench --head-ct runs both beside tomograd's program. Prints one JSON line.
"""
import csv
import json
import pathlib
import sys

import torch
import torchvision
from PIL import Image
from torchvision import transforms

PLAIN = [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(),
         transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]


class Slices(torch.utils.data.Dataset):
    def __init__(self, folder, rows, augment):
        self.folder, self.rows = folder, rows
        self.transform = transforms.Compose(([transforms.ColorJitter(contrast=(0.6, 1.6))] if augment else []) + PLAIN)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        name, label = self.rows[i]
        return self.transform(Image.open(self.folder / "head_ct" / f"{int(name):03d}.png").convert("RGB")), label


def main():
    how, folder, weights, epochs, views, threads = sys.argv[1], pathlib.Path(sys.argv[2]), *sys.argv[3:]
    epochs, views = int(epochs), int(views)
    torch.set_num_threads(int(threads))
    torch.manual_seed(1)
    with open(folder / "labels.csv") as f:
        rows = [(r[0], int(r[1])) for r in list(csv.reader(f))[1:]]
    order = torch.randperm(len(rows)).tolist()
    held = set(order[:len(rows) // 5])
    train, valid = [i for i in range(len(rows)) if i not in held], sorted(held)
    loader = lambda which, augment, shuffle=False: torch.utils.data.DataLoader(
        Slices(folder, [rows[i] for i in which], augment), batch_size=16, shuffle=shuffle, num_workers=2)

    net = torchvision.models.resnet50()
    net.load_state_dict(torch.load(weights, weights_only=True))
    for p in net.parameters():
        p.requires_grad = False
    net.fc = torch.nn.Linear(net.fc.in_features, 2)
    optimizer = torch.optim.AdamW(net.fc.parameters(), lr=1e-3)
    loss_of = torch.nn.functional.cross_entropy

    if how == "cached":
        body = torch.nn.Sequential(*list(net.children())[:-1], torch.nn.Flatten()).eval().to(memory_format=torch.channels_last)

        @torch.inference_mode()
        def features(augment):
            return torch.cat([body(x.to(memory_format=torch.channels_last)) for x, _ in loader(range(len(rows)), augment)])

        clean, *banks = [features(v > 0).clone() for v in range(views + 1)]
        labels = torch.tensor([label for _, label in rows])
        for epoch in range(epochs):
            bank = banks[epoch % len(banks)] if banks else clean
            for batch in torch.tensor(train)[torch.randperm(len(train))].split(16):
                optimizer.zero_grad()
                loss_of(net.fc(bank[batch]), labels[batch]).backward()
                optimizer.step()
        right = (net.fc(clean[valid]).argmax(1) == labels[valid]).sum().item()
    else:
        for epoch in range(epochs):
            net.train()
            for x, y in loader(train, True, True):
                optimizer.zero_grad()
                loss_of(net(x), y).backward()
                optimizer.step()
            net.eval()
            right = 0
            with torch.no_grad():
                for x, y in loader(valid, False):
                    right += (net(x).argmax(1) == y).sum().item()
    print(json.dumps({"accuracy": right / len(valid)}))


main()
