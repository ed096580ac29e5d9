"""The verb `compare`: train and evaluate several networks on one data set."""

from typing import Any


def compare(
    dataset_dir: str,
    networks: str,
    output: str | None = None,
    epochs: int | None = None,
    minutes: float | None = None,
    seeds: Any = 0,
    folds: Any = 0,
    bundle: str | None = None,
    pretrained: str | None = None,
    initial: str | None = None,
    labels_dir: str | None = None,
    memory: float = 24.0,
    **settings: Any,
) -> None:
    """Train and evaluate several networks on a data set with one recipe and an equal budget, and compare their scores.

    The results are a table with the rank of each network, a figure, and the scores of every run. If a
    comparison was interrupted, the same command resumes it; if networks, seeds or folds are added, only the new runs
    are made. A network that fails does not end the comparison.

    Args:
        dataset_dir: The folder of the data set, in the layout of nnU-Net or of the Medical Segmentation Decathlon, or
            with the two subfolders images and labels. With --labels_dir, a folder of images is enough.
        networks: The networks, separated by commas: sizes of MedNeXt such as v2_tiny or v1_s, other networks such as
            segresnet, or files such as ./my_network.yaml.
        output: The folder of the comparison. By default it is comparisons/NAME, after the folder of the data set.
        epochs: The budget of each run as a number of epochs, so that all networks make the same number of steps.
        minutes: The budget of each run as minutes of training. A short trial of each network measures how many steps
            it can make in this time.
        seeds: The random seeds of the runs, such as 0,1,2. Each network is trained once for each seed and fold.
        folds: The folds of the cross-validation whose cases are scored, such as 0,1.
        bundle: A bundle or a task.yaml with the spacing, the patch size and the other settings of the task. By default,
            they are planned from the data, as by mednextv2 plan.
        pretrained: Files of weights, such as v2_tiny=model.pt or a=a.pt,b=b.pt. Such a network is trained twice, from
            random weights and from these, and a second figure compares the two.
        initial: Files of weights with names of your own, such as mae=a.pt,supervised=b.pt. Every network is trained
            from random weights and from each of these files, with the same number of steps and the same seeds.
        labels_dir: The folder of the label maps, if they are not inside DATASET_DIR. A label map has the same file
            name as its image.
        memory: The memory in GiB that a training step may use, if the settings are planned.
        settings: Any setting at the top of the workflows train and evaluate, the same for all networks, such as
            --batch_size 2 or --iterations_per_epoch 100. Settings that only the workflow finetune has hold for networks
            with weights to start from.

    Examples:
        mednextv2 compare Dataset042_Liver v2_tiny,v1_s,segresnet --minutes 60 --seeds 0,1
        mednextv2 compare Task04_Hippocampus v2_tiny,v1_s --epochs 20 --bundle mednextv2_hippocampus
        mednextv2 compare Dataset042_Liver v2_base --epochs 100 --pretrained v2_base=model.pt
        mednextv2 compare Dataset042_Liver v2_base --epochs 100 --initial mae=mae.pt,ct=ct.pt --splits few.json
    """
    from mednextv2.comparison.compare import compare_networks
    from mednextv2.comparison.entries import choose_entries
    from mednextv2.comparison.request import Request, read_numbers
    from mednextv2.errors import InputError
    from mednextv2.paths import absolute
    from mednextv2.wording import count

    request = Request(
        dataset_dir, labels_dir, choose_entries(networks, pretrained, initial), read_numbers("seeds", seeds),
        read_numbers("folds", folds), epochs, minutes, settings,
    )  # fmt: skip
    folder = absolute(output) if output is not None else absolute("comparisons") / absolute(dataset_dir).name
    done = compare_networks(request, folder, bundle, memory)
    print(done.text)
    print("\n".join(f"written: {file}" for file in done.files))
    if missing := [r.entry.name for r in done.results if not r.complete]:
        raise InputError(
            f"{count(len(missing), 'network')} of {len(done.results)} could not be compared ({'; '.join(missing)}); "
            f"{folder / 'comparison.md'} says why, and the same command tries again"
        )
