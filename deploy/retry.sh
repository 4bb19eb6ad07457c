#!/bin/sh
# retry N COMMAND...: run it, and up to N times more while it ends with 1, the code of a run that failed on its way: the
# same command goes on. Refused input (2), too many failed images (3) and a signal (130) end the same way again.
left=$1
shift
while :; do
    "$@"
    code=$?
    if [ "$code" -ne 1 ] || [ "$left" -le 0 ]; then
        exit "$code"
    fi
    left=$((left - 1))
    echo "the run failed; the same command goes on, $left more attempts after that" >&2
    sleep "${RETRY_WAIT_S:-30}"
done
