#!/bin/sh
# Stands in for the plugin of its own name: writes down how it was called and how the plugin answered, and changes neither.
# A file refuse/<plugin>-<verb> is the answer instead of the plugin, which then is not run.
plugin=${0##*/}
records=/run/recorder
call=$(mktemp -d "$records/calls/.XXXXXXXX")
cat >"$call/stdin"
env -0 >"$call/environment"
refusal=$records/refuse/$plugin-$CNI_COMMAND
if [ -e "$refusal" ]; then
    cat "$refusal" >"$call/stdout"
    status=1
else
    "/run/recorder/plugins/$plugin" <"$call/stdin" >"$call/stdout"
    status=$?
fi
echo "$plugin" >"$call/plugin"
echo "$status" >"$call/status"
cat "$call/stdout"
# A record appears when it is whole. The names sort by the time of the end.
mv "$call" "$records/calls/$(date +%s%N)-$$"
exit "$status"
