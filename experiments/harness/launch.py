"""All claims as an array of SLURM jobs, one for each shard, with submitit (extra ``slurm``).

    python -m experiments.harness.launch --shards 8 --data DIR --out DIR -- --claims dictionary skewed
    python -m experiments.harness.launch --shards 2 --cluster local --data DIR --out DIR     # processes of this machine

Words after ``--`` go to `experiments.run`. A job that is cut off goes on where it was when it is launched again; each
shard has a file of lines of its own, and the tables read them all.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

LOGS = "logs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, required=True, help="jobs of the array")
    parser.add_argument("--data", required=True, help="folder of the data pack, where the jobs see it")
    parser.add_argument("--out", type=Path, required=True, help="folder of the lines, where the jobs see it")
    parser.add_argument("--cluster", choices=("slurm", "local"), default="slurm")
    parser.add_argument("--partition", help="of SLURM")
    parser.add_argument("--gpus", type=int, default=0, help="for each job")
    parser.add_argument("--cpus", type=int, default=2, help="for each job")
    parser.add_argument("--minutes", type=int, default=240, help="time limit of a job")
    parser.add_argument("words", nargs="*", help="further words for experiments.run, after --")
    arguments = parser.parse_args()
    try:
        import submitit
    except ImportError:
        parser.error("submitit is not installed; expected the extra: pip install -e '.[slurm]'")
    executor = submitit.AutoExecutor(folder=arguments.out / LOGS, cluster=arguments.cluster)
    executor.update_parameters(
        name="spear-jax-experiments",
        timeout_min=arguments.minutes,
        cpus_per_task=arguments.cpus,
        gpus_per_node=arguments.gpus,
        **({} if arguments.partition is None else {"slurm_partition": arguments.partition}),
    )
    commands = [command(number, arguments) for number in range(arguments.shards)]
    jobs = executor.map_array(run, commands)
    print("jobs:", " ".join(job.job_id for job in jobs), flush=True)
    if arguments.cluster == "local":
        for job in jobs:
            job.result()
        print(f"done: {arguments.out}")


def command(shard: int, arguments: argparse.Namespace) -> list[str]:
    """What one job runs."""
    words = ["-m", "experiments.run", "--shard", f"{shard}/{arguments.shards}", "--data", arguments.data]
    return [sys.executable, *words, "--out", str(arguments.out), *arguments.words]


def run(words: list[str]) -> None:
    """One job: a process of its own, so that nothing of JAX is loaded before it."""
    subprocess.run(words, check=True, cwd=Path(__file__).parents[2])


if __name__ == "__main__":
    main()
