//! A client of the Container Runtime Interface, as much of it as a pod needs.

mod grpc;
mod message;

use std::os::unix::net::UnixStream;
use std::time::Duration;

use azure_vnet_testbed::Vm;
use prost::Message;

use crate::image;
use message::{
    ContainerConfig, ContainerId, ContainerMetadata, CreateContainer, Empty, ExecSync, Executed,
    Image, LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxId, PodSandboxMetadata,
    PodSandboxStatus, PodSandboxes, PortMapping, RunPodSandbox, Version,
};

/// A kubelet waits for four minutes; whatever takes that long here hangs.
const LIMIT: Duration = Duration::from_mins(2);

/// A runtime that listens on a socket of a VM.
#[derive(Clone, Copy)]
pub struct Client<'a> {
    pub vm: &'a Vm,
    pub socket: &'a str,
    /// The cgroup of all pods.
    pub cgroup: &'a str,
}

/// What a pod asks for.
#[derive(Clone, Default)]
pub struct Pod {
    pub name: String,
    /// Port of the node, port of the pod.
    pub host_port: Option<(i32, i32)>,
    pub annotations: Vec<(&'static str, &'static str)>,
}

/// Which call has no answer.
#[derive(Debug, thiserror::Error)]
#[error("{method}: {source}")]
pub struct Error {
    method: &'static str,
    source: grpc::Error,
}

impl Client<'_> {
    /// Name and version of the runtime.
    pub fn version(&self) -> Result<String, Error> {
        let Version {
            runtime_name,
            runtime_version,
        } = self.call("Version", &Empty {})?;
        Ok(format!("{runtime_name} {runtime_version}"))
    }

    /// Starts a pod without containers; returns its ID.
    pub fn run_pod(&self, pod: &Pod) -> Result<String, Error> {
        let config = Some(self.config(pod));
        let answer: PodSandboxId = self.call("RunPodSandbox", &RunPodSandbox { config })?;
        Ok(answer.pod_sandbox_id)
    }

    /// The address that the runtime reports for a pod; empty when it knows none.
    pub fn address(&self, pod: &str) -> Result<String, Error> {
        let answer: PodSandboxStatus = self.call("PodSandboxStatus", &id(pod))?;
        let network = answer.status.and_then(|status| status.network);
        Ok(network.map(|network| network.ip).unwrap_or_default())
    }

    /// The IDs of all pods, running or not.
    pub fn pods(&self) -> Result<Vec<String>, Error> {
        let PodSandboxes { items } = self.call("ListPodSandbox", &Empty {})?;
        Ok(items.into_iter().map(|pod| pod.pod_sandbox_id).collect())
    }

    /// Ends a pod and its network.
    pub fn stop_pod(&self, pod: &str) -> Result<(), Error> {
        self.call("StopPodSandbox", &id(pod)).map(|Empty {}| ())
    }

    /// Forgets a pod.
    pub fn remove_pod(&self, pod: &str) -> Result<(), Error> {
        self.call("RemovePodSandbox", &id(pod)).map(|Empty {}| ())
    }

    /// Starts a container of busybox in a pod; returns its ID.
    pub fn run_container(&self, id: &str, pod: &Pod, command: &[&str]) -> Result<String, Error> {
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: command.concat(),
            }),
            image: Some(Image {
                image: image::BUSYBOX.into(),
            }),
            command: command.iter().map(|&word| word.to_owned()).collect(),
        };
        let create = CreateContainer {
            pod_sandbox_id: id.to_owned(),
            config: Some(config),
            sandbox_config: Some(self.config(pod)),
        };
        let container: ContainerId = self.call("CreateContainer", &create)?;
        let Empty {} = self.call("StartContainer", &container)?;
        Ok(container.container_id)
    }

    /// Runs a program in a container to its end; returns exit status, standard output and standard error.
    pub fn exec(&self, container: &str, command: &[&str]) -> Result<(i32, String, String), Error> {
        let request = ExecSync {
            container_id: container.to_owned(),
            cmd: command.iter().map(|&word| word.to_owned()).collect(),
            timeout: 10,
        };
        let answer: Executed = self.call("ExecSync", &request)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((answer.exit_code, text(&answer.stdout), text(&answer.stderr)))
    }

    fn config(&self, pod: &Pod) -> PodSandboxConfig {
        let annotations = pod.annotations.iter();
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: pod.name.clone(),
                uid: format!("uid-of-{}", pod.name),
                namespace: "default".into(),
                attempt: 0,
            }),
            hostname: pod.name.clone(),
            port_mappings: pod
                .host_port
                .map(|(host_port, container_port)| PortMapping {
                    protocol: 0,
                    container_port,
                    host_port,
                })
                .into_iter()
                .collect(),
            annotations: annotations
                .map(|&(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: self.cgroup.to_owned(),
            }),
        }
    }

    fn call<A: Message + Default>(
        &self,
        method: &'static str,
        request: &impl Message,
    ) -> Result<A, Error> {
        let connect = || UnixStream::connect(self.socket);
        let stream = self.vm.namespace().run(connect).and_then(|stream| stream);
        let answer = stream.map_err(grpc::Error::from).and_then(|stream| {
            let path = format!("/runtime.v1.RuntimeService/{method}");
            grpc::call(stream, &path, request, LIMIT)
        });
        answer.map_err(|source| Error { method, source })
    }
}

fn id(pod: &str) -> PodSandboxId {
    PodSandboxId {
        pod_sandbox_id: pod.to_owned(),
    }
}
