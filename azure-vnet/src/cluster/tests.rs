//! A table of bad definitions with what is said about them, and what a good one comes to.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::json;

use super::*;

const SUBNET_ID: &str = "/subscriptions/S/resourceGroups/net/providers/Microsoft.Network/virtualNetworks/KUBE_VNET/subnets/KubeClusterSubnet";

/// The documented example: one master and two agents.
fn example() -> Value {
    json!({
        "apiVersion": "vlabs",
        "properties": {
            "orchestratorProfile": {
                "orchestratorType": "Kubernetes",
                "kubernetesConfig": { "clusterSubnet": "10.0.0.0/20" }
            },
            "masterProfile": {
                "count": 1,
                "dnsPrefix": "ACSKubeMaster",
                "vmSize": "Standard_A2",
                "vnetSubnetId": SUBNET_ID,
                "firstConsecutiveStaticIP": "10.0.1.50",
                "vnetCidr": "10.0.0.0/16"
            },
            "agentPoolProfiles": [
                { "name": "k8sagentpoo1", "count": 2, "vmSize": "Standard_A2_v2", "vnetSubnetId": SUBNET_ID,
                  "availabilityProfile": "AvailabilitySet" }
            ],
            "linuxProfile": { "adminUsername": "azureuser" }
        }
    })
}

/// The example with `value` at `pointer` (RFC 6901); `null` takes away what is there.
fn with(changes: &[(&str, Value)]) -> Value {
    let mut definition = example();
    for (pointer, value) in changes {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = definition.pointer_mut(parent).unwrap();
        match parent {
            Value::Object(object) if value.is_null() => {
                object.remove(key).unwrap();
            }
            Value::Object(object) => {
                object.insert(key.to_owned(), value.clone());
            }
            Value::Array(array) => array.push(value.clone()),
            other => panic!("{other} has no {key}"),
        }
    }
    definition
}

fn problems(definition: &Value) -> Vec<String> {
    let problems = read(&definition.to_string()).unwrap_err();
    problems.iter().map(ToString::to_string).collect()
}

const ORCHESTRATOR: &str = "/properties/orchestratorProfile";
const KUBERNETES: &str = "/properties/orchestratorProfile/kubernetesConfig";
const MASTER: &str = "/properties/masterProfile";
const AGENT: &str = "/properties/agentPoolProfiles/0";

/// One fault each: where, what stands there, and what is said.
#[test]
#[expect(clippy::too_many_lines, reason = "a row for each fault")]
fn every_fault_is_named_where_it_is() {
    let at = |place: &str, key: &str| format!("{place}/{key}");
    let table: Vec<(String, Value, &str)> = vec![
        (
            "/apiVersion".into(),
            Value::Null,
            "$.apiVersion: the version of the definition is missing, for example \"vlabs\"",
        ),
        (
            "/apiVersion".into(),
            json!("2016-03-30"),
            "$.apiVersion: \"2016-03-30\" is another kind of definition: \"vlabs\"",
        ),
        (
            "/apiVersion".into(),
            json!(1),
            "$.apiVersion: a number where the version of the definition belongs, for example \"vlabs\"",
        ),
        (
            at(ORCHESTRATOR, "orchestratorType"),
            json!("DCOS"),
            "$.properties.orchestratorProfile.orchestratorType: \"DCOS\" does not call CNI plugins: \"Kubernetes\"",
        ),
        (
            at(ORCHESTRATOR, "orchestratorType"),
            Value::Null,
            "$.properties.orchestratorProfile.orchestratorType: the orchestrator's type is missing, for example \"Kubernetes\"",
        ),
        (
            at(KUBERNETES, "networkPlugin"),
            json!("kubenet"),
            "$.properties.orchestratorProfile.kubernetesConfig.networkPlugin: \"kubenet\" gives pods no addresses of the virtual network: \"azure\"",
        ),
        (
            at(KUBERNETES, "networkPolicy"),
            json!("calico"),
            "$.properties.orchestratorProfile.kubernetesConfig.networkPolicy: \"calico\" alone has the engine choose another network plugin: give \"networkPlugin\": \"azure\" with it",
        ),
        (
            at(KUBERNETES, "networkPolicy"),
            json!("none"),
            "$.properties.orchestratorProfile.kubernetesConfig.networkPolicy: \"none\" alone has the engine choose another network plugin: give \"networkPlugin\": \"azure\" with it",
        ),
        (
            at(KUBERNETES, "networkPolicy"),
            json!("cilium"),
            "$.properties.orchestratorProfile.kubernetesConfig.networkPolicy: \"cilium\" gives pods no addresses of the virtual network: \"azure\", \"calico\" or \"none\"",
        ),
        (
            at(KUBERNETES, "networkPolicy"),
            json!(false),
            "$.properties.orchestratorProfile.kubernetesConfig.networkPolicy: true or false where what enforces NetworkPolicy belongs, for example \"calico\"",
        ),
        (
            at(MASTER, "availabilityProfile"),
            json!(3),
            "$.properties.masterProfile.availabilityProfile: a number where the kind of the VMs belongs, for example \"VirtualMachineScaleSets\"",
        ),
        (
            at(MASTER, "agentVnetSubnetId"),
            json!("KubeAgents"),
            "$.properties.masterProfile.agentVnetSubnetId: \"KubeAgents\" is not the resource ID of a subnet, for example \"/subscriptions/SUBSCRIPTION/resourceGroups/GROUP/providers/Microsoft.Network/virtualNetworks/VNET/subnets/SUBNET\"",
        ),
        (
            at(AGENT, "vnetSubnetId"),
            Value::Null,
            "$.properties.agentPoolProfiles[0].vnetSubnetId: the resource ID of a subnet is missing, for example \"/subscriptions/SUBSCRIPTION/resourceGroups/GROUP/providers/Microsoft.Network/virtualNetworks/VNET/subnets/SUBNET\"",
        ),
        (
            at(KUBERNETES, "clusterSubnet"),
            Value::Null,
            "$.properties.orchestratorProfile.kubernetesConfig.clusterSubnet: an IPv4 CIDR, the subnet of VMs and pods is missing, for example \"10.0.0.0/20\"",
        ),
        (
            at(KUBERNETES, "clusterSubnet"),
            json!("10.0.0.0"),
            "$.properties.orchestratorProfile.kubernetesConfig.clusterSubnet: \"10.0.0.0\" is not an IPv4 CIDR, the subnet of VMs and pods, for example \"10.0.0.0/20\"",
        ),
        (
            at(KUBERNETES, "clusterSubnet"),
            json!("fd00::/64"),
            "$.properties.orchestratorProfile.kubernetesConfig.clusterSubnet: \"fd00::/64\" is not an IPv4 CIDR, the subnet of VMs and pods, for example \"10.0.0.0/20\"",
        ),
        (
            at(KUBERNETES, "clusterSubnet"),
            json!("10.0.1.0/20"),
            "$.properties.orchestratorProfile.kubernetesConfig.clusterSubnet: 10.0.1.0/20 has bits beyond its prefix: 10.0.0.0/20",
        ),
        (
            at(KUBERNETES, "clusterSubnet"),
            json!("10.0.1.48/30"),
            "$.properties.orchestratorProfile.kubernetesConfig.clusterSubnet: 10.0.1.48/30: Azure takes networks from /2 to /29",
        ),
        (
            at(KUBERNETES, "clusterSubnet"),
            json!(10),
            "$.properties.orchestratorProfile.kubernetesConfig.clusterSubnet: a number where an IPv4 CIDR, the subnet of VMs and pods belongs, for example \"10.0.0.0/20\"",
        ),
        (
            at(KUBERNETES, "kubeletConfig"),
            json!([]),
            "$.properties.orchestratorProfile.kubernetesConfig.kubeletConfig: a list where kubelet's configuration belongs: an object",
        ),
        (
            at(KUBERNETES, "kubeletConfig"),
            json!({ "--max-pods": "many" }),
            "$.properties.orchestratorProfile.kubernetesConfig.kubeletConfig.--max-pods: \"many\" is not a number of pods: 1 to 250",
        ),
        (
            at(KUBERNETES, "kubeletConfig"),
            json!({ "--max-pods": "251" }),
            "$.properties.orchestratorProfile.kubernetesConfig.kubeletConfig.--max-pods: \"251\" is not a number of pods: 1 to 250",
        ),
        (
            at(KUBERNETES, "kubeletConfig"),
            json!({ "max-Pods": 0 }),
            "$.properties.orchestratorProfile.kubernetesConfig.kubeletConfig.max-Pods: 0 is not a number of pods: 1 to 250",
        ),
        (
            at(KUBERNETES, "kubeletConfig"),
            json!({ "maxPods": -30 }),
            "$.properties.orchestratorProfile.kubernetesConfig.kubeletConfig.maxPods: -30 is not a number of pods: 1 to 250",
        ),
        (
            at(KUBERNETES, "kubeletConfig"),
            json!({ "--max-pods": "30", "maxPods": 40 }),
            "$.properties.orchestratorProfile.kubernetesConfig.kubeletConfig.maxPods: the number of pods is given twice: remove one",
        ),
        (
            at(MASTER, "firstConsecutiveStaticIP"),
            Value::Null,
            "$.properties.masterProfile.firstConsecutiveStaticIP: an IPv4 address, that of the first master is missing, for example \"10.0.1.50\"",
        ),
        (
            at(MASTER, "firstConsecutiveStaticIP"),
            json!("10.0.1"),
            "$.properties.masterProfile.firstConsecutiveStaticIP: \"10.0.1\" is not an IPv4 address, that of the first master, for example \"10.0.1.50\"",
        ),
        (
            at(MASTER, "firstConsecutiveStaticIP"),
            json!("10.0.16.5"),
            "$.properties.masterProfile.firstConsecutiveStaticIP: 10.0.16.5 is not in the cluster's subnet, 10.0.0.0/20",
        ),
        (
            at(MASTER, "firstConsecutiveStaticIP"),
            json!("10.0.0.0"),
            "$.properties.masterProfile.firstConsecutiveStaticIP: 10.0.0.0 is reserved by Azure: 10.0.0.4 to 10.0.15.254 are free",
        ),
        (
            at(MASTER, "firstConsecutiveStaticIP"),
            json!("10.0.0.3"),
            "$.properties.masterProfile.firstConsecutiveStaticIP: 10.0.0.3 is reserved by Azure: 10.0.0.4 to 10.0.15.254 are free",
        ),
        (
            at(MASTER, "firstConsecutiveStaticIP"),
            json!("10.0.15.255"),
            "$.properties.masterProfile.firstConsecutiveStaticIP: 10.0.15.255 is reserved by Azure: 10.0.0.4 to 10.0.15.254 are free",
        ),
        (
            at(MASTER, "count"),
            json!(2),
            "$.properties.masterProfile.count: 2 masters: 1, 3 or 5",
        ),
        (
            at(MASTER, "count"),
            json!(0),
            "$.properties.masterProfile.count: 0 is not a number of VMs: 1 to 5",
        ),
        (
            at(MASTER, "count"),
            Value::Null,
            "$.properties.masterProfile.count: the number of VMs is missing",
        ),
        (
            at(MASTER, "Count"),
            json!(1),
            "$.properties.masterProfile.Count: given twice, also as \"count\": remove one",
        ),
        (
            at(MASTER, "vnetCidr"),
            Value::Null,
            "$.properties.masterProfile.vnetCidr: an IPv4 CIDR, the address space of the virtual network is missing, for example \"10.0.0.0/16\"",
        ),
        (
            at(MASTER, "vnetCidr"),
            json!("10.1.0.0/16"),
            "$.properties.masterProfile.vnetCidr: 10.1.0.0/16 does not contain the cluster's subnet, 10.0.0.0/20",
        ),
        (
            at(MASTER, "vnetCidr"),
            json!("10.0.0.0/24"),
            "$.properties.masterProfile.vnetCidr: 10.0.0.0/24 does not contain the cluster's subnet, 10.0.0.0/20",
        ),
        (
            at(MASTER, "ipAddressCount"),
            json!(30),
            "$.properties.masterProfile.ipAddressCount: 30 addresses: 30 pods and the VM itself need 31",
        ),
        (
            at(MASTER, "ipAddressCount"),
            json!(257),
            "$.properties.masterProfile.ipAddressCount: 257 is not a number of addresses on a NIC: 1 to 256",
        ),
        (
            at(AGENT, "vnetSubnetId"),
            json!(SUBNET_ID.replace("KUBE_VNET", "OTHER_VNET")),
            "$.properties.agentPoolProfiles[0].vnetSubnetId: in another virtual network than the masters' subnet: all VMs of a cluster are in one",
        ),
        (
            at(AGENT, "count"),
            json!(101),
            "$.properties.agentPoolProfiles[0].count: 101 is not a number of VMs: 1 to 100",
        ),
        (
            at(AGENT, "count"),
            json!("two"),
            "$.properties.agentPoolProfiles[0].count: \"two\" is not a number of VMs: 1 to 100",
        ),
        (
            at(AGENT, "name"),
            Value::Null,
            "$.properties.agentPoolProfiles[0].name: the pool's name is missing, for example \"agentpool1\"",
        ),
        (
            at(AGENT, "name"),
            json!("Agent-Pool"),
            "$.properties.agentPoolProfiles[0].name: \"Agent-Pool\": 1 to 12 small letters and digits, a letter first",
        ),
        (
            at(AGENT, "name"),
            json!("master"),
            "$.properties.agentPoolProfiles[0].name: \"master\" is the name of another pool",
        ),
        (
            at(AGENT, "kubernetesConfig"),
            json!({ "kubeletConfig": { "--max-pods": "1000" } }),
            "$.properties.agentPoolProfiles[0].kubernetesConfig.kubeletConfig.--max-pods: \"1000\" is not a number of pods: 1 to 250",
        ),
        (
            "/properties/agentPoolProfiles/1".into(),
            json!(7),
            "$.properties.agentPoolProfiles[1]: a number where an agent pool belongs: an object",
        ),
        (
            "/properties/agentPoolProfiles".into(),
            json!({}),
            "$.properties.agentPoolProfiles: an object where the agent pools belong: a list",
        ),
        (
            "/properties/agentPoolProfiles".into(),
            Value::Null,
            "$.properties.agentPoolProfiles: the agent pools are missing",
        ),
        (
            "/properties/masterProfile".into(),
            Value::Null,
            "$.properties.masterProfile: the masters' profile is missing",
        ),
        (
            "/properties/orchestratorProfile".into(),
            json!("Kubernetes"),
            "$.properties.orchestratorProfile: a text where the orchestrator belongs: an object",
        ),
        (
            "/properties".into(),
            Value::Null,
            "$.properties: the cluster is missing",
        ),
    ];
    for (pointer, value, said) in table {
        let definition = with(&[(&pointer, value.clone())]);
        assert_eq!(problems(&definition), [said], "{pointer} = {value}");
    }
}

#[test]
fn a_subnet_id_has_one_shape() {
    for id in [
        "",
        "KubeClusterSubnet",
        "subscriptions/S/resourceGroups/net/providers/Microsoft.Network/virtualNetworks/V/subnets/N",
        "/subscriptions/S/resourceGroups/net/providers/Microsoft.Network/virtualNetworks/V",
        "/subscriptions/S/resourceGroups/net/providers/Microsoft.Network/virtualNetworks/V/subnets/",
        "/subscriptions/S/resourceGroups/net/providers/Microsoft.Compute/virtualNetworks/V/subnets/N",
        "/subscriptions/S/resourceGroups/net/providers/Microsoft.Network/virtualNetworks/V/subnets/N/x",
        "/subscriptions/S/resourceGroups/a'; reboot; '/providers/Microsoft.Network/virtualNetworks/V/subnets/N",
    ] {
        let definition = with(&[(&format!("{MASTER}/vnetSubnetId"), json!(id))]);
        let problems = problems(&definition);
        assert_eq!(problems.len(), 1, "{id}: {problems:?}");
        assert!(
            problems[0].starts_with("$.properties.masterProfile.vnetSubnetId: "),
            "{problems:?}"
        );
    }
    let same = SUBNET_ID
        .to_uppercase()
        .replace("/SUBSCRIPTIONS", "/subscriptions");
    read(&with(&[(&format!("{AGENT}/vnetSubnetId"), json!(same))]).to_string()).unwrap();
}

#[test]
fn masters_need_room_behind_the_first() {
    let definition = with(&[
        (&format!("{MASTER}/count"), json!(5)),
        (
            &format!("{MASTER}/firstConsecutiveStaticIP"),
            json!("10.0.15.252"),
        ),
    ]);
    assert_eq!(
        problems(&definition),
        [
            "$.properties.masterProfile.firstConsecutiveStaticIP: from 10.0.15.252 on there is room for 3 of the 5 masters in 10.0.0.0/20"
        ]
    );
}

#[test]
fn all_faults_come_at_once() {
    let definition = with(&[
        ("/apiVersion", json!("v1")),
        (&format!("{KUBERNETES}/clusterSubnet"), json!("10.0.0.1/20")),
        (&format!("{MASTER}/count"), json!(4)),
        (&format!("{AGENT}/count"), json!(0)),
    ]);
    let paths: Vec<String> = read(&definition.to_string())
        .unwrap_err()
        .into_iter()
        .map(|problem| problem.path)
        .collect();
    assert_eq!(
        paths,
        [
            "$.apiVersion",
            "$.properties.orchestratorProfile.kubernetesConfig.clusterSubnet",
            "$.properties.masterProfile.count",
            "$.properties.agentPoolProfiles[0].count",
        ]
    );
}

#[test]
fn what_is_no_json_says_where_it_ends_to_be() {
    let problems = read("{\n  \"apiVersion\": \"vlabs\" --> comment\n}").unwrap_err();
    assert_eq!(problems.len(), 1);
    let text = problems[0].to_string();
    assert!(text.starts_with("$: this is not JSON: "), "{text}");
    assert!(text.contains("line 2"), "{text}");
}

#[test]
fn the_documented_example_needs_31_addresses_for_each_vm() {
    let cluster = read(&example().to_string()).unwrap();
    let vms: Vec<_> = cluster
        .vms()
        .map(|vm| {
            (
                vm.pool.name.as_str(),
                vm.index,
                vm.address,
                vm.pool.addresses,
            )
        })
        .collect();
    assert_eq!(
        vms,
        [
            ("master", 0, Some(Ipv4Addr::new(10, 0, 1, 50)), 31),
            ("k8sagentpoo1", 0, None, 31),
            ("k8sagentpoo1", 1, None, 31),
        ]
    );
    // 4,096 addresses, of which Azure keeps five.
    let needed = cluster.needed_in(&cluster.subnet_id);
    assert_eq!((needed, cluster.usable()), (93, 4091));
    assert_eq!(cluster.other_subnets(), [] as [&SubnetId; 0]);
    assert!(cluster.fits());
}

#[test]
fn keys_are_found_in_any_case_and_pools_may_differ() {
    let definition = with(&[
        (
            &format!("{KUBERNETES}/KubeletConfig"),
            json!({ "--MAX-PODS": "110" }),
        ),
        (&format!("{MASTER}/ipAddressCount"), json!(200)),
        (
            &format!("{AGENT}/KubernetesConfig"),
            json!({ "kubeletConfig": { "--max-pods": "250" } }),
        ),
    ]);
    let cluster = read(&definition.to_string()).unwrap();
    let pools: Vec<_> = cluster
        .pools
        .iter()
        .map(|pool| (pool.max_pods, pool.addresses))
        .collect();
    assert_eq!(pools, [(110, 200), (250, 251)]);
}

#[test]
fn a_subnet_may_be_too_small() {
    let definition = with(&[
        (&format!("{KUBERNETES}/clusterSubnet"), json!("10.0.1.0/26")),
        (
            &format!("{MASTER}/firstConsecutiveStaticIP"),
            json!("10.0.1.50"),
        ),
    ]);
    let cluster = read(&definition.to_string()).unwrap();
    let needed = cluster.needed_in(&cluster.subnet_id);
    assert_eq!((needed, cluster.usable(), cluster.fits()), (93, 59, false));
}

/// How large theirs is, the definition does not say: only what the masters' has to hold is compared.
#[test]
fn agents_may_be_in_another_subnet_of_the_network() {
    let agents = SUBNET_ID.replace("KubeClusterSubnet", "KubeAgents");
    let definition = with(&[
        (&format!("{KUBERNETES}/clusterSubnet"), json!("10.0.1.0/26")),
        (&format!("{AGENT}/vnetSubnetId"), json!(agents)),
    ]);
    let cluster = read(&definition.to_string()).unwrap();
    let [other] = cluster.other_subnets()[..] else {
        panic!("{cluster:?}")
    };
    assert_eq!(
        (other.to_string(), other.name()),
        (agents.clone(), "KubeAgents")
    );
    assert_eq!(cluster.needed_in(other), 62);
    assert_eq!(cluster.needed_in(&cluster.subnet_id), 31);
    assert!(cluster.fits());

    let files = Files::of(&cluster, &[], &NicNames::new(NicNames::DEFAULT).unwrap());
    let (masters, of_agents) = files
        .azure_cli
        .split_once(&format!("\nsubnet='{agents}'\n"))
        .unwrap();
    assert!(masters.ends_with("add k8s-master-0-nic 30"), "{masters}");
    assert_eq!(of_agents.lines().count(), 2, "{of_agents}");
    let template: Value = serde_json::from_str(&files.template).unwrap();
    let subnet_of = |nic: usize| {
        let config = &template["resources"][nic]["properties"]["ipConfigurations"][7];
        config["properties"]["subnet"]["id"].clone()
    };
    assert_eq!(subnet_of(0), SUBNET_ID);
    assert_eq!(subnet_of(2), agents);
}

/// Their VMs get what address is free, and their NICs are in the scale set's model.
#[test]
fn masters_and_agents_may_be_scale_sets() {
    let agents = SUBNET_ID.replace("KubeClusterSubnet", "KubeAgents");
    let changes = [
        (
            format!("{MASTER}/availabilityProfile"),
            json!("VirtualMachineScaleSets"),
        ),
        (format!("{MASTER}/firstConsecutiveStaticIP"), Value::Null),
        (format!("{MASTER}/agentVnetSubnetID"), json!(agents)),
        (format!("{AGENT}/vnetSubnetId"), Value::Null),
    ];
    let changes: Vec<(&str, Value)> = changes
        .iter()
        .map(|(pointer, value)| (pointer.as_str(), value.clone()))
        .collect();
    let cluster = read(&with(&changes).to_string()).unwrap();
    let master = &cluster.pools[0];
    assert!(master.is_scale_set && master.first_address.is_none());
    assert_eq!(cluster.pools[1].subnet_id.to_string(), agents);
    let files = Files::of(&cluster, &[], &NicNames::new(NicNames::DEFAULT).unwrap());
    assert!(
        !files.azure_cli.contains("k8s-master"),
        "{}",
        files.azure_cli
    );
    assert!(
        files
            .azure_cli
            .contains("# Not of master: the model of a scale set has to have its 31 ipconfigs.\n"),
        "{}",
        files.azure_cli
    );
    assert!(!files.template.contains("k8s-master"));
    // One that is given is checked all the same, and without a scale set there has to be one.
    let first = format!("{MASTER}/firstConsecutiveStaticIP");
    let given = [changes[0].clone(), (&first, json!("10.9.0.4"))];
    assert_eq!(problems(&with(&given)).len(), 1);
    let none = &changes[1..2];
    assert_eq!(problems(&with(none)).len(), 1);
}

/// What enforces policies is another question than what gives pods their addresses.
#[test]
fn a_policy_engine_may_be_beside_the_plugin() {
    for (plugin, policy) in [
        ("azure", "calico"),
        ("Azure", "Calico"),
        ("azure", "azure"),
        ("azure", "none"),
        ("azure", ""),
    ] {
        let definition = with(&[
            (&format!("{KUBERNETES}/networkPlugin"), json!(plugin)),
            (&format!("{KUBERNETES}/networkPolicy"), json!(policy)),
        ]);
        read(&definition.to_string()).unwrap();
    }
    // As older definitions name the plugin.
    read(&with(&[(&format!("{KUBERNETES}/networkPolicy"), json!("azure"))]).to_string()).unwrap();
}

#[test]
fn files_allocate_what_was_counted() {
    let cluster = read(&example().to_string()).unwrap();
    let peered: Ipv4Net = "10.100.0.0/16".parse().unwrap();
    let files = Files::of(
        &cluster,
        &[peered, cluster.vnet],
        &NicNames::new(NicNames::DEFAULT).unwrap(),
    );

    let conflist: Value = serde_json::from_str(&files.conflist).unwrap();
    assert_eq!(
        conflist["plugins"][0]["masquerade"]["nonMasqueradeCIDRs"],
        json!(["10.0.0.0/16", "10.100.0.0/16"])
    );
    let template: Value = serde_json::from_str(&files.template).unwrap();
    let nics = template["resources"].as_array().unwrap();
    let configs = |nic: &Value| {
        nic["properties"]["ipConfigurations"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!(nics.iter().map(configs).collect::<Vec<_>>(), [31, 31, 31]);
    assert_eq!(nics[0]["name"], "k8s-master-0-nic");
    assert_eq!(
        nics[0]["properties"]["ipConfigurations"][0]["properties"]["privateIPAddress"],
        "10.0.1.50"
    );
    for line in [
        "group=\"${1:-net}\"",
        "add k8s-master-0-nic 30",
        "add k8s-k8sagentpoo1-1-nic 30",
    ] {
        assert!(
            files.azure_cli.lines().any(|of| of == line),
            "{line}:\n{}",
            files.azure_cli
        );
    }
}

#[test]
fn nic_names_tell_nics_apart_and_need_no_quoting() {
    for pattern in [
        "nic",
        "{pool}-nic",
        "{index}",
        "{pool}-{index}; reboot",
        "{pool} {index}",
        "{x}{pool}{index}",
    ] {
        NicNames::new(pattern).unwrap_err();
    }
}
