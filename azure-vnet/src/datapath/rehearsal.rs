//! What the programs would do with a packet: the same programs on the same settings, loaded once more beside those in
//! place, with a flow table and counters of their own. Nothing is attached or pinned, no flow is left behind and
//! nothing is counted, so a question changes nothing.

use aya::maps::{HashMap, MapError, PerCpuArray};
use aya::programs::{ProgramError, SchedClassifier, TestRun as _, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use azure_vnet_abi::{Flow, FlowKey, Reason, maps, programs};

use super::bpffs::Pins;
use super::ebpf::EbpfError;
use super::object::OBJECT;
use super::view;

/// Maps that the programs only read, and that user space fills. All others would be changed by a packet.
const SHARED: [&str; 7] = [
    "uplink", "pods", "ports", "policy", "rules", "policies", "reserved",
];

/// Enough for one packet.
const FLOWS: u32 = 256;

/// `TC_ACT_SHOT`.
const SHOT: i32 = 2;

/// The programs, ready to be asked.
pub struct Rehearsal {
    ebpf: Ebpf,
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Performed {
    /// Whether it goes on.
    pub passes: bool,
    /// What it would be counted under; [`Reason::NotOurs`] if under nothing.
    pub reason: Reason,
    /// The packet as it goes on.
    pub frame: Vec<u8>,
}

impl Rehearsal {
    /// The maps that a rehearsal needs and that are not pinned: without one of them it would be about other settings.
    pub fn lacking(bridge: &str) -> Vec<&'static str> {
        let pins = Pins::of(bridge);
        let needed = SHARED.into_iter();
        needed.filter(|name| !pins.map(name).exists()).collect()
    }

    /// Loads the programs onto the settings of `bridge`, whose maps are pinned. `flow` is put into the flow
    /// table, if it is in the real one, with the entry for its replies.
    pub fn prepare(bridge: &str, flow: &FlowKey) -> Result<Self, EbpfError> {
        let pins = Pins::of(bridge);
        let mut loader = EbpfLoader::new();
        loader.map_max_entries(maps::FLOWS, FLOWS);
        for name in SHARED {
            loader.map_pin_path(name, pins.map(name));
        }
        let mut ebpf = loader.load(OBJECT).map_err(EbpfError::load)?;
        for name in [programs::FROM_POD, programs::TO_UPLINK] {
            let program = ebpf.program_mut(name);
            let program =
                program.ok_or_else(|| EbpfError::program(name, ProgramError::NotLoaded))?;
            let program: Result<&mut SchedClassifier, _> = program.try_into();
            program
                .and_then(SchedClassifier::load)
                .map_err(|source| EbpfError::program(name, source))?;
        }
        let mut this = Self { ebpf };
        this.copy_flow(bridge, flow)?;
        Ok(this)
    }

    fn copy_flow(&mut self, bridge: &str, key: &FlowKey) -> Result<(), EbpfError> {
        let Some(entry) = view::flow(bridge, key)? else {
            return Ok(());
        };
        let mut replies = *key;
        (replies.source, replies.source_port) = (entry.address, entry.port);
        let replies = replies.reversed();
        let failed = |source| EbpfError::map(maps::FLOWS, source);
        let reply = view::flow(bridge, &replies)?;
        let map = self.ebpf.map_mut(maps::FLOWS).ok_or(MapError::KeyNotFound);
        let mut flows: HashMap<_, FlowKey, Flow> =
            map.and_then(HashMap::try_from).map_err(failed)?;
        flows.insert(key, entry, 0).map_err(failed)?;
        if let Some(reply) = reply {
            flows.insert(replies, reply, 0).map_err(failed)?;
        }
        Ok(())
    }

    /// Runs one program on a packet that comes from the interface of this index, which must be one of the calling
    /// thread's namespace; without one, on a packet of nowhere.
    pub fn run(
        &self,
        name: &'static str,
        ifindex: Option<u32>,
        frame: &[u8],
    ) -> Result<Performed, EbpfError> {
        let failed = |source| EbpfError::program(name, source);
        let program = self
            .ebpf
            .program(name)
            .ok_or(ProgramError::NotLoaded)
            .map_err(failed)?;
        let program: &SchedClassifier = program.try_into().map_err(failed)?;
        let before = self.counters()?;
        let context = ifindex.map(context);
        let mut out = vec![0; frame.len()];
        let result = program
            .test_run(TestRunOptions {
                data_in: Some(frame),
                data_out: Some(&mut out),
                ctx_in: context.as_ref().map(<[u8; 44]>::as_slice),
                ..TestRunOptions::default()
            })
            .map_err(failed)?;
        let after = self.counters()?;
        let counted = before
            .iter()
            .zip(&after)
            .find(|(before, after)| before != after);
        Ok(Performed {
            passes: result.return_value.cast_signed() != SHOT,
            reason: counted.map_or(Reason::NotOurs, |((reason, _), _)| *reason),
            frame: out,
        })
    }

    fn counters(&self) -> Result<super::Counters, EbpfError> {
        let failed = |source| EbpfError::map(maps::COUNTERS, source);
        let map = self
            .ebpf
            .map(maps::COUNTERS)
            .ok_or(MapError::KeyNotFound)
            .map_err(failed)?;
        let map: PerCpuArray<_, u64> = map.try_into().map_err(failed)?;
        let counters = Reason::ALL.into_iter().map(|reason| {
            let values = map.get(&(reason as u32), 0)?;
            Ok((reason, values.iter().sum()))
        });
        counters.collect::<Result<_, _>>().map_err(failed)
    }
}

/// A `struct __sk_buff` up to `ifindex`, the other fields 0.
fn context(ifindex: u32) -> [u8; 44] {
    let mut context = [0; 44];
    context[40..].copy_from_slice(&ifindex.to_ne_bytes());
    context
}
