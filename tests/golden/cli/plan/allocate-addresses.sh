#!/bin/sh
# Adds the pods' addresses to the NICs of the cluster. The NICs have to exist, each with its own address.
# Azure takes some seconds for each address; the template next to this file does it in one deployment.
set -eu
group="${1:-GROUP}"
subnet='/subscriptions/SUBSCRIPTION/resourceGroups/GROUP/providers/Microsoft.Network/virtualNetworks/KubeVnet/subnets/KubeClusterSubnet'
add() { # NIC, number of addresses
    number=1
    while [ "$number" -le "$2" ]; do
        az network nic ip-config create --resource-group "$group" --nic-name "$1" \
            --name "pod$number" --subnet "$subnet" --output none
        number=$((number + 1))
    done
}
add k8s-master-0-nic 30
add k8s-agentpool1-0-nic 30
add k8s-agentpool1-1-nic 30
