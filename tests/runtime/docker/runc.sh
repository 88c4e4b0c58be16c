#!/bin/sh
# runc for test machines that are containers themselves and may not lower a process's OOM score, as a kubelet wants for its sandboxes.
# containerd has a setting for this (restrict_oom_score_adj), docker has not.
bundle=.
previous=
for word in "$@"; do
    [ "$previous" != --bundle ] || bundle=$word
    previous=$word
done
case " $* " in
*" create "*)
    jq 'del(.process.oomScoreAdj)' "$bundle/config.json" >"$bundle/config.json.new" &&
        mv "$bundle/config.json.new" "$bundle/config.json" || exit 1
    ;;
esac
exec runc "$@"
