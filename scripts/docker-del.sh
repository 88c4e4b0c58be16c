#!/bin/sh
# Disconnects and removes a container that docker-run.sh started.
#
#   docker-del.sh <container-name> <container-namespace>
#
# The plugins are called backwards, with the configuration of the start. It does not matter whether the container runs, has ended or is
# gone, nor how often this is done. When a plugin fails, the container stays, and so does what is known of it, for another try.
#
# Environment:
#   CNI_PATH     folders of the plugins, separated by colons (/opt/cni/bin)
#   KEEP         unless it is empty, the container is disconnected only
#   DEBUG        unless it is empty, every call is shown
set -eu

export CNI_PATH="${CNI_PATH:-/opt/cni/bin}"
records=/run/azure-vnet-docker

fail() {
    echo "docker-del.sh: $*" >&2
    exit 1
}

# One line of what a plugin printed when it failed, which should be an error object.
reason() {
    printf '%s' "$1" | jq -r '"\(.msg) \(.details // "") (code \(.code))"' 2>/dev/null || echo "$1"
}

plugin_path() {
    IFS=:
    for folder in $CNI_PATH; do
        [ ! -x "$folder/$1" ] || { echo "$folder/$1" && return; }
    done
    return 1
}

# What plugin number $1 reads. From 0.4.0 on that includes the result of the whole list.
config_of() {
    jq -cjS --argjson number "$1" '
        . as {$list, $given, $result}
        | $list.plugins[$number] + ($list | {name, cniVersion})
        | . as $plugin
        | ($given | with_entries(select($plugin.capabilities[.key] == true))) as $runtime
        | ($list.cniVersion | split(".") | map(tonumber? // 0)) as $version
        | if $runtime == {} then . else .runtimeConfig = $runtime end
        | if $result == null or $version < [0, 4, 0] then . else .prevResult = $result end' "$record"
}

# Has plugin number $1 disconnect the container.
del() {
    type=$(jq -r --argjson number "$1" '.list.plugins[$number].type' "$record")
    plugin=$(plugin_path "$type") || { echo "there is no $type in $CNI_PATH" && return 1; }
    [ -z "${DEBUG:-}" ] || echo "DEL $type" >&2
    config_of "$1" | CNI_COMMAND=DEL timeout 120 "$plugin"
}

[ $# -eq 2 ] || fail "usage: docker-del.sh <container-name> <container-namespace>"
name=$1 namespace=$2
for word in "$name" "$namespace"; do
    case $word in
    '' | [.-]* | *[!A-Za-z0-9_.-]*) fail "'$word' is not a name: letters, digits, '_', '.' and '-', the last two not in front" ;;
    esac
done
[ "$(id -u)" = 0 ] || fail "only root can disconnect a container"
for program in docker jq; do
    command -v "$program" >/dev/null || fail "$program is not installed"
done
docker ps >/dev/null || fail "docker does not answer"

record=$records/$namespace/$name.json
if [ -s "$record" ]; then
    id=$(jq -r .id "$record")
    # Asked for now and not taken from the start: the process may have ended, and its number may be another's.
    pid=$(docker inspect --format '{{.State.Pid}}' "$id" 2>/dev/null) || pid=0
    netns=
    [ "$pid" = 0 ] || netns=/proc/$pid/ns/net
    export CNI_CONTAINERID="$id" CNI_NETNS="$netns" CNI_IFNAME=eth0
    export CNI_ARGS="IgnoreUnknown=1;K8S_POD_NAMESPACE=$namespace;K8S_POD_NAME=$name;K8S_POD_INFRA_CONTAINER_ID=$id"

    number=$(jq '.list.plugins | length' "$record")
    while [ "$number" -gt 0 ]; do
        number=$((number - 1))
        answer=$(del "$number") || fail "$name cannot be disconnected: plugin $number failed: $(reason "$answer")"
    done
    rm "$record"
fi
[ -z "${KEEP:-}" ] || exit 0
# Not a container of that name that docker-run.sh did not start.
if [ "$(docker inspect --format '{{index .Config.Labels "azure-vnet.namespace"}}' "$name" 2>/dev/null)" = "$namespace" ]; then
    docker rm --force "$name" >/dev/null
fi
