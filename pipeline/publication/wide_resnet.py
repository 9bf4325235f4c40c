"""The paper that this repository reproduces. Commands, stages and the runner take it from here and pass it on."""

from pathlib import Path

from pipeline.publication.paper import Paper

PAPER = Paper(
    folder=Path(__file__).parent,
    title="Wide Residual Networks",
    authors=("Sergey Zagoruyko", "Nikos Komodakis"),
    venue="Proceedings of the British Machine Vision Conference (BMVC), 2016",
    version="arXiv 1605.07146v4, June 2017",
    url="https://arxiv.org/abs/1605.07146v4",
    tables={
        "2": "Table 2: block types, CIFAR-10",
        "3": "Table 3: convolutions per block (l), CIFAR-10",
        "4": "Table 4: depth and width, CIFAR-10 and CIFAR-100",
        "5": "Table 5: against other networks, CIFAR-10 and CIFAR-100",
        "6": "Table 6: dropout, CIFAR-10, CIFAR-100 and SVHN",
        "7": "Table 7: width, ImageNet",
        "8": "Table 8: bottlenecks, ImageNet",
        "9": "Table 9: best results",
        "figure-4": "Figure 4: time of a training step",
        "text": "Text: SVHN without dropout, gains and speed-ups",
    },
    datasets={"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "svhn": "SVHN", "imagenet": "ImageNet", "coco": "COCO"},
    metrics={
        "top1_error": "test error, %",
        "top5_error": "top-5 error, %",
        "map": "mAP, %",
        "params_millions": "parameters, millions",
        "epoch_seconds": "seconds an epoch",
        "batch16_ms": "ms for a batch of 16",
        "batch32_ms": "ms for a batch of 32",
        "gain_points": "points of error gained",
        "times_faster": "times faster",
        "figure_label": "error in a label, %",
    },
    recipes={"zca": "paper-zca", "meanstd": "paper-meanstd", "unit": "paper-svhn", "imagenet": "paper-imagenet"},
    series=r"WRN-\d+",
)
