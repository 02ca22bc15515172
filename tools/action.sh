#!/usr/bin/env bash
# What action.yml runs: one command on one model, by COMMAND, MODEL, ARGUMENTS and REPORT.
set -euo pipefail
case "$COMMAND" in
    inspect | fold | insert | lift | strip | verify) ;;
    *)
        echo "sn-graph action: no command '$COMMAND'" >&2
        exit 2
        ;;
esac
mapfile -t words < <(xargs -n 1 printf '%s\n' <<< "$ARGUMENTS") # quotes count, and nothing is expanded
test -n "${words[*]}" || words=()
if [ -n "$REPORT" ]; then
    words+=(--html "$REPORT")
fi
exec sn-graph "$COMMAND" "$MODEL" "${words[@]}"
