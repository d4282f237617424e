#!/usr/bin/env bash
# Lets a feature in from a pipeline, stage by stage, and takes it back where a stage does not go on.
#
#   rollout.sh FEATURE REASON [LONGEST]
#
# LONGEST is how long a stage may take, by default 5d. Exit codes decide: of a stage that is waited for, 0 it
# went on, 8 it did not (rolled back, paused, stopped, or holding), 7 it took longer. This script exits with 0
# when the rollout is complete, with 8 when it was taken back, and with the code of `start` where that was
# refused and nothing was begun.
set -euo pipefail

feature=$1
reason=$2
longest=${3:-5d}

wait_for_stage() {
    local code=0
    wicketgate rollout status "$feature" --wait "$longest" || code=$?
    # A stage that has met everything holds where `promotion` is manual; any other is refused (4) here.
    if [[ $code -eq 8 ]] && wicketgate rollout promote "$feature" --reason "$reason"; then
        code=0
    fi
    return "$code"
}

complete() {
    wicketgate rollout status "$feature" --json | grep -Eq '"phase": ?"complete"'
}

wicketgate validate
wicketgate rollout start "$feature" --reason "$reason"
until complete; do
    if ! wait_for_stage; then
        wicketgate rollback "$feature" --reason "$reason: the stage did not go on"
        wicketgate rollout history "$feature" --limit 5
        exit 8
    fi
done
wicketgate rollout status "$feature"
