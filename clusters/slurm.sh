#!/bin/bash
# A grid on Slurm:  sbatch clusters/slurm.sh GRID STORE [further options of `lengthwise run`]
# docs/cluster.md says what to change: partition, nodes, GPUs, time, how Python is found. STORE lies on a shared file
# system. When the time is up, submit again: the same command goes on where this one ended.
#SBATCH --job-name=lengthwise
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=lengthwise-%j.log
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: sbatch clusters/slurm.sh GRID STORE [options]" >&2
    exit 2
fi
# shellcheck source=/dev/null
source "${LENGTHWISE_VENV:-.venv}/bin/activate"

# A token for this job alone, in a folder of this user that all nodes see.
umask 077
folder=$HOME/.lengthwise/$SLURM_JOB_ID
mkdir -p "$folder"
trap 'rm -rf "$folder"' EXIT
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$folder/token
python -c "import secrets; print(secrets.token_hex(32))" > "$RAY_AUTH_TOKEN_PATH"
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300

# Every node starts Ray and joins the first one's, which then runs the command; its dashboard stays on the loopback
# interface. Exit status 0 of symmetric-run also means that Ray did not start, so the command says itself how it ended.
read -r head < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export LENGTHWISE_STATUS=$folder/status
# shellcheck disable=SC2016  # expanded on the node that runs it
srun --kill-on-bad-exit=0 ray symmetric-run --address "$head:6379" --min-nodes "$SLURM_JOB_NUM_NODES" -- \
    bash -c 'lengthwise run "$@" --address auto --preflight; echo $? > "$LENGTHWISE_STATUS"' lengthwise "$1" --store "$2" "${@:3}"

if [ ! -s "$LENGTHWISE_STATUS" ]; then
    echo "Ray did not start, or ended before the grid did" >&2
    exit 1
fi
exit "$(cat "$LENGTHWISE_STATUS")"
