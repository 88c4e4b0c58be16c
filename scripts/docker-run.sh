#!/bin/sh
# Starts a Docker container that has an address of the virtual network.
#
#   docker-run.sh <container-name> <container-namespace> <image> [command...]
#   docker-run.sh <container-name> <container-namespace>
#
# The second form connects a container again whose process was started anew, by docker restart, docker start, or a policy of docker's after
# its own restart or the node's: docker then gives it another namespace, in which there is no network. Its address may be another.
#
# Docker starts it without a network (--net=none). Then the plugins of the network configuration connect it: all of them, in order, each
# with the result of the one before, as a container runtime calls them. Prints the container's address. docker-del.sh undoes it.
#
# Environment:
#   CNI_PATH     folders of the plugins, separated by colons (/opt/cni/bin)
#   NETCONFPATH  folder of network configurations, of which the first by name is taken (/etc/cni/net.d)
#   CAP_ARGS     what plugins that declare a capability are given for it, for example
#                {"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]}
#                Again, it is what it was at the start; after a reboot of the node it has to be said anew.
#   DEBUG        unless it is empty, the result of every plugin is shown
set -eu

export CNI_PATH="${CNI_PATH:-/opt/cni/bin}"
NETCONFPATH=${NETCONFPATH:-/etc/cni/net.d}
# Empty after a reboot, like the network that it describes.
records=/run/azure-vnet-docker

fail() {
    echo "docker-run.sh: $*" >&2
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

# What plugin number $1 reads: its own object, the list's name and version, its share of CAP_ARGS, and the result $2 (null for the first).
config_of() {
    printf '%s' "$list" | jq -cjS --argjson number "$1" --argjson result "$2" --argjson given "$CAP_ARGS" '
        {name, cniVersion} as $of_list
        | .plugins[$number] + $of_list
        | . as $plugin
        | ($given | with_entries(select($plugin.capabilities[.key] == true))) as $runtime
        | if $runtime == {} then . else .runtimeConfig = $runtime end
        | if $result == null then . else .prevResult = $result end'
}

# Has plugin number $1 connect the container, after the result $2; prints its own.
add() {
    type=$(printf '%s' "$list" | jq -r --argjson number "$1" '.plugins[$number].type')
    plugin=$(plugin_path "$type") || { echo "there is no $type in $CNI_PATH" && return 1; }
    config_of "$1" "$2" | CNI_COMMAND=ADD timeout 120 "$plugin"
}

# Takes back what has been done so far, for the reason given.
give_up() {
    "$(dirname "$0")/docker-del.sh" "$name" "$namespace" || echo "docker-run.sh: not everything could be taken back" >&2
    fail "$*"
}

[ $# -ge 2 ] || fail "usage: docker-run.sh <container-name> <container-namespace> [<image> [command...]]"
name=$1 namespace=$2
shift 2
for word in "$name" "$namespace"; do
    case $word in
    '' | [.-]* | *[!A-Za-z0-9_.-]*) fail "'$word' is not a name: letters, digits, '_', '.' and '-', the last two not in front" ;;
    esac
done
[ "$(id -u)" = 0 ] || fail "only root can connect a container"
for program in docker jq; do
    command -v "$program" >/dev/null || fail "$program is not installed"
done
record=$records/$namespace/$name.json
[ $# -gt 0 ] || [ -n "${CAP_ARGS:-}" ] || [ ! -s "$record" ] || CAP_ARGS=$(jq -c .given "$record")
CAP_ARGS=${CAP_ARGS:-"{}"}
printf '%s' "$CAP_ARGS" | jq -e 'type == "object"' >/dev/null 2>&1 || fail "CAP_ARGS is not a JSON object: $CAP_ARGS"

file=$(find "$NETCONFPATH" -maxdepth 1 \( -name '*.conf' -o -name '*.conflist' -o -name '*.json' \) 2>/dev/null | LC_ALL=C sort | head -n 1)
[ -n "$file" ] || fail "there is no network configuration in $NETCONFPATH"
# A configuration of one plugin becomes a list of one. A missing version means 0.1.0.
list=$(jq -ce 'if .plugins then . else {name, cniVersion, plugins: [.]} end | .cniVersion //= "0.1.0" | select(.name and .plugins[0].type)' "$file") ||
    fail "$file is not a network configuration: a name, and plugins with a type, are needed"

if [ $# -eq 0 ]; then
    # It stays when it cannot be connected.
    export KEEP=1
    id=$(docker inspect --format '{{.Id}}' "$name") && [ "$(docker inspect --format '{{index .Config.Labels "azure-vnet.namespace"}}' "$name")" = "$namespace" ] ||
        fail "$name is no container that docker-run.sh started in $namespace: give its image"
    "$(dirname "$0")/docker-del.sh" "$name" "$namespace" || fail "$name cannot be disconnected from what it had"
else
    export KEEP=
    image=$1
    shift
    id=$(docker run --detach --net=none --name "$name" --label "azure-vnet.namespace=$namespace" "$image" "$@") || fail "docker could not start $name from $image"
fi
# For docker-del.sh: by then the configuration may be another one, and the container gone.
mkdir -p "$records/$namespace"
jq -n --arg id "$id" --argjson list "$list" --argjson given "$CAP_ARGS" '{$id, $list, $given, result: null}' >"$record"

pid=$(docker inspect --format '{{.State.Pid}}' "$id")
[ "$pid" != 0 ] || give_up "$name does not run: $(docker logs --tail 3 "$id" 2>&1)"
export CNI_CONTAINERID="$id" CNI_NETNS="/proc/$pid/ns/net" CNI_IFNAME=eth0
export CNI_ARGS="IgnoreUnknown=1;K8S_POD_NAMESPACE=$namespace;K8S_POD_NAME=$name;K8S_POD_INFRA_CONTAINER_ID=$id"

number=0
result=null
while [ "$number" -lt "$(printf '%s' "$list" | jq '.plugins | length')" ]; do
    answer=$(add "$number" "$result") || give_up "$name cannot be connected: plugin $number of $file failed: $(reason "$answer")"
    result=$answer
    [ -z "${DEBUG:-}" ] || printf '%s' "$result" | jq . >&2
    number=$((number + 1))
done
jq --argjson result "$result" '.result = $result' "$record" >"$record.new"
mv "$record.new" "$record"
echo "docker-run.sh: the network of $name ends with its process; after docker restart, a restart of docker or of the node: docker-run.sh $name $namespace" >&2
printf '%s' "$result" | jq -r '[.ips[]?.address, .ip4.ip, .ip6.ip] | map(values)[0] // "" | split("/")[0]'
