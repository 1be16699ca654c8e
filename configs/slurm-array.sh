#!/bin/bash
# One job on many machines of a SLURM cluster: a job array embeds, and a job that waits for it merges.
#
#   array=$(sbatch --parsable configs/slurm-array.sh)
#   sbatch --dependency=afterany:$array --wrap "embed-collections merge /shared/Embeddings"
#
# Input, output and models must be on a file system that all nodes share, with locks (Lustre: mounted with -o flock).
# Tasks may run in any order, at the same time or one after the other. One that is killed or requeued goes on where it
# was. Merging checks every share first: if some are missing, it names them and changes nothing; do those again with
#
#   sbatch --array=3,5 configs/slurm-array.sh
#
# and merge then.
#
#SBATCH --job-name=embed
#SBATCH --array=0-7
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --time=04:00:00
# Sent two minutes before the time is over: what is under way is committed, and the exit code is 143.
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --output=embed-%A-%a.log

set -euo pipefail

# As many shares as the whole array has tasks. The number is written out, for an array of a few tasks that are done again
# does not tell it; `--shard auto` alone takes it from the array, which may then begin with any number.
shares=8

# exec, so that the signal reaches the program itself. The model is fetched beforehand, so that not every task asks the
# hub: embed-collections models pull bge-m3
exec embed-collections --chunked-dir /shared/Chunked --output-dir /shared/Embeddings --model bge-m3 --offline \
    --format parquet --shard "auto/$shares" --threads "${SLURM_CPUS_PER_TASK:-1}"
