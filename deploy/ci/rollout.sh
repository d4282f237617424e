#!/usr/bin/env bash
# Lets a feature in from a pipeline, stage by stage, and takes it back where a stage does not go on.
#
#   rollout.sh FEATURE REASON [LONGEST]
#
# LONGEST is how long a stage may take, by default 5d. Exit codes decide: of a stage that is waited for, 0 it
# went on, 8 it did not (rolled back, paused, stopped, or holding), 7 it took longer. One that holds may only
# want more requests, so it is asked again every RETRY_S seconds. This script exits with 0 when the rollout is
# complete, with 8 when it was taken back, and with the code of `start` where that was refused and nothing was
# begun.
set -euo pipefail

feature=$1
reason=$2
longest=${3:-5d}
retry_s=${RETRY_S:-300}

seconds() {
    local number=${1%[smhd]}
    case $1 in
        *d) echo $((number * 86400)) ;;
        *h) echo $((number * 3600)) ;;
        *m) echo $((number * 60)) ;;
        *) echo "$number" ;;
    esac
}

phase() {
    wicketgate rollout status "$feature" --json | sed -nE 's/.*"phase": ?"([a-z_]+)".*/\1/p'
}

wait_for_stage() {
    local code=0 ends=$((SECONDS + $(seconds "$longest")))
    wicketgate rollout status "$feature" --wait "$longest" || code=$?
    if [[ $code -ne 8 ]]; then
        return "$code"
    fi
    # What has met everything goes on now where `promotion` is manual; anything else is refused (4).
    while [[ $(phase) == holding ]]; do
        if wicketgate rollout promote "$feature" --reason "$reason"; then
            return 0
        fi
        if ((SECONDS >= ends)); then
            return 7
        fi
        sleep "$retry_s"
    done
    [[ $(phase) =~ ^(running|complete)$ ]]
}

wicketgate validate
wicketgate rollout start "$feature" --reason "$reason"
until [[ $(phase) == complete ]]; do
    if ! wait_for_stage; then
        wicketgate rollback "$feature" --reason "$reason: the stage did not go on"
        wicketgate rollout history "$feature" --limit 5
        exit 8
    fi
done
wicketgate rollout status "$feature"
