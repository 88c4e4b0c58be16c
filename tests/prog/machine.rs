//! The instructions of one packet, carried out one by one: what of a program a packet takes, where the
//! kernel only tells what came out.
//!
//! It knows what the way of an established packet needs. Any other helper is a failure, so whatever is
//! added to that way shows.

use std::collections::{BTreeMap, HashSet};

use aya_obj::Object;
use aya_obj::generated::bpf_insn;

const CONTEXT: u64 = 0x1000_0000;
const PACKET: u64 = 0x2000_0000;
const STACK: u64 = 0x3000_0000;
const FRAME: u64 = 0x1000;
const VALUES: u64 = 0x4000_0000;
const VALUE: u64 = 0x1000;
const MAPS: u64 = 0x5000_0000;

/// `struct __sk_buff`, as far as programs read it.
const LENGTH: usize = 0;
const IFINDEX: usize = 40;
const DATA: usize = 76;
const DATA_END: usize = 80;

/// More than any packet takes.
const LIMIT: u32 = 10_000;

/// What one packet took.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Cost {
    pub action: i32,
    pub instructions: u32,
    /// Lookups by the name of the map.
    pub lookups: BTreeMap<String, u32>,
    /// Calls of other helpers by their name.
    pub helpers: BTreeMap<&'static str, u32>,
}

/// An object's programs with maps of their own.
pub struct Machine {
    object: Object,
    maps: Vec<String>,
    memory: BTreeMap<u64, Vec<u8>>,
    /// Map and key of each value.
    values: BTreeMap<(String, Vec<u8>), u64>,
}

impl Machine {
    pub fn new(object: &[u8]) -> Self {
        let mut object = Object::parse(object).unwrap();
        let text: HashSet<usize> = object
            .functions
            .keys()
            .map(|(section, _)| *section)
            .collect();
        let found: Vec<_> = object
            .maps
            .iter()
            .map(|(name, map)| (name.clone(), map.clone()))
            .collect();
        let numbered = found
            .iter()
            .zip(0..)
            .map(|((name, map), number)| (name.as_str(), number, map));
        object.relocate_maps(numbered, &text).unwrap();
        object.relocate_calls(&text).unwrap();
        Self {
            object,
            maps: found.into_iter().map(|(name, _)| name).collect(),
            memory: BTreeMap::new(),
            values: BTreeMap::new(),
        }
    }

    /// Puts an element into a map.
    pub fn set(&mut self, map: &str, key: &[u8], value: &[u8]) {
        let address = VALUES + self.values.len() as u64 * VALUE;
        self.memory.insert(address, value.to_vec());
        self.values.insert((map.to_owned(), key.to_vec()), address);
    }

    /// Runs a program on a packet that came in through an interface.
    pub fn run(&mut self, program: &str, ifindex: u32, packet: &[u8]) -> Cost {
        let mut context = vec![0; 192];
        let mut field = |at: usize, value: u32| {
            context[at..at + 4].copy_from_slice(&value.to_le_bytes());
        };
        let length = u32::try_from(packet.len()).unwrap();
        let data = u32::try_from(PACKET).unwrap();
        field(LENGTH, length);
        field(IFINDEX, ifindex);
        field(DATA, data);
        field(DATA_END, data + length);
        self.memory.insert(CONTEXT, context);
        self.memory.insert(PACKET, packet.to_vec());
        let key = self.object.programs[program].function_key();
        let instructions = self.object.functions[&key].instructions.clone();
        let mut run = Run {
            machine: self,
            registers: [0; 11],
            frames: Vec::new(),
            cost: Cost::default(),
        };
        run.registers[1] = CONTEXT;
        run.enter_frame();
        run.go(&instructions);
        run.cost
    }

    fn bytes(&mut self, address: u64, length: usize) -> &mut [u8] {
        let (base, region) = self.memory.range_mut(..=address).next_back().unwrap();
        let at = usize::try_from(address - base).unwrap();
        &mut region[at..at + length]
    }

    fn load(&mut self, address: u64, length: usize) -> u64 {
        let mut word = [0; 8];
        word[..length].copy_from_slice(self.bytes(address, length));
        u64::from_le_bytes(word)
    }

    fn store(&mut self, address: u64, length: usize, value: u64) {
        self.bytes(address, length)
            .copy_from_slice(&value.to_le_bytes()[..length]);
    }
}

struct Run<'a> {
    machine: &'a mut Machine,
    registers: [u64; 11],
    /// Where to go on, and registers 6 to 9 of the caller.
    frames: Vec<(usize, [u64; 4])>,
    cost: Cost,
}

impl Run<'_> {
    fn enter_frame(&mut self) {
        let base = STACK + self.frames.len() as u64 * FRAME;
        self.machine.memory.insert(base, vec![0; 512]);
        self.registers[10] = base + 512;
    }

    fn go(&mut self, program: &[bpf_insn]) {
        let mut at = 0;
        loop {
            self.cost.instructions += 1;
            assert!(self.cost.instructions < LIMIT, "the packet goes in circles");
            let instruction = program[at];
            at += 1;
            match instruction.code & 7 {
                0 => {
                    let high = u64::from(program[at].imm.cast_unsigned()) << 32;
                    let low = u64::from(instruction.imm.cast_unsigned());
                    let is_map = instruction.src_reg() != 0;
                    self.registers[usize::from(instruction.dst_reg())] =
                        if is_map { MAPS + low } else { high | low };
                    at += 1;
                }
                1..=3 => self.memory(instruction),
                4 => self.arithmetic(instruction, 32),
                7 => self.arithmetic(instruction, 64),
                class => match instruction.code >> 4 {
                    8 if instruction.src_reg() == 1 => {
                        let saved = [6, 7, 8, 9].map(|register| self.registers[register]);
                        self.frames.push((at, saved));
                        self.enter_frame();
                        at = at.strict_add_signed(instruction.imm.try_into().unwrap());
                    }
                    8 => self.helper(instruction.imm),
                    9 => {
                        let Some((caller, saved)) = self.frames.pop() else {
                            self.cost.action = low_half(self.registers[0]).cast_signed();
                            return;
                        };
                        self.registers[6..10].copy_from_slice(&saved);
                        self.registers[10] = STACK + self.frames.len() as u64 * FRAME + 512;
                        at = caller;
                    }
                    _ if self.is_taken(instruction, class == 6) => {
                        at = at.strict_add_signed(instruction.off.into());
                    }
                    _ => {}
                },
            }
        }
    }

    fn memory(&mut self, instruction: bpf_insn) {
        assert_eq!(instruction.code & 0xe0, 0x60, "plain loads and stores");
        let length = [4, 2, 1, 8][usize::from(instruction.code >> 3 & 3)];
        let (to, from) = (
            usize::from(instruction.dst_reg()),
            usize::from(instruction.src_reg()),
        );
        let offset = i64::from(instruction.off);
        match instruction.code & 7 {
            1 => {
                let address = self.registers[from].wrapping_add_signed(offset);
                self.registers[to] = self.machine.load(address, length);
            }
            class => {
                let value = if class == 2 {
                    i64::from(instruction.imm).cast_unsigned()
                } else {
                    self.registers[from]
                };
                let address = self.registers[to].wrapping_add_signed(offset);
                self.machine.store(address, length, value);
            }
        }
    }

    fn operand(&self, instruction: bpf_insn) -> u64 {
        if instruction.code & 8 == 0 {
            i64::from(instruction.imm).cast_unsigned()
        } else {
            self.registers[usize::from(instruction.src_reg())]
        }
    }

    fn arithmetic(&mut self, instruction: bpf_insn, bits: u32) {
        let to = usize::from(instruction.dst_reg());
        let (mut left, mut right) = (self.registers[to], self.operand(instruction));
        if bits == 32 {
            (left, right) = (left & u64::from(u32::MAX), right & u64::from(u32::MAX));
        }
        let shift = u32::try_from(right & u64::from(bits - 1)).unwrap();
        let value = match instruction.code >> 4 {
            0 => left.wrapping_add(right),
            1 => left.wrapping_sub(right),
            2 => left.wrapping_mul(right),
            3 => left.checked_div(right).unwrap_or(0),
            4 => left | right,
            5 => left & right,
            6 => left << shift,
            7 => left >> shift,
            8 => left.wrapping_neg(),
            9 => left.checked_rem(right).unwrap_or(left),
            10 => left ^ right,
            11 => right,
            12 if bits == 64 => (left.cast_signed() >> shift).cast_unsigned(),
            12 => u64::from((low_half(left).cast_signed() >> shift).cast_unsigned()),
            13 => swapped(left, instruction),
            other => panic!("operation {other}"),
        };
        self.registers[to] = if bits == 32 && instruction.code >> 4 != 13 {
            value & u64::from(u32::MAX)
        } else {
            value
        };
    }

    fn is_taken(&self, instruction: bpf_insn, narrow: bool) -> bool {
        let (mut left, mut right) = (
            self.registers[usize::from(instruction.dst_reg())],
            self.operand(instruction),
        );
        if narrow {
            (left, right) = (u64::from(low_half(left)), u64::from(low_half(right)));
        }
        let signed = |value: u64| {
            if narrow {
                i64::from(low_half(value).cast_signed())
            } else {
                value.cast_signed()
            }
        };
        match instruction.code >> 4 {
            0 => true,
            1 => left == right,
            2 => left > right,
            3 => left >= right,
            4 => left & right != 0,
            5 => left != right,
            6 => signed(left) > signed(right),
            7 => signed(left) >= signed(right),
            10 => left < right,
            11 => left <= right,
            12 => signed(left) < signed(right),
            13 => signed(left) <= signed(right),
            other => panic!("jump {other}"),
        }
    }

    fn helper(&mut self, number: i32) {
        let [_, first, second, third, fourth, fifth, ..] = self.registers;
        let (name, result) = match number {
            1 => return self.look_up(first, second),
            11 => {
                let offset = PACKET + second;
                let sum = self.machine.load(offset, 2);
                // As for a complete checksum and a word that changed.
                let words = |word: u64| (word & 0xffff) + (word >> 16 & 0xffff);
                let mut sum = (!sum & 0xffff) + words(!third) + words(fourth);
                while sum > 0xffff {
                    sum = (sum & 0xffff) + (sum >> 16);
                }
                assert_ne!(fifth & 0xf, 0, "the size of what changed");
                self.machine.store(offset, 2, !sum);
                ("l4_csum_replace", 0)
            }
            23 => ("redirect", 7),
            155 => ("redirect_peer", 7),
            118 => ("jiffies64", 0x1_0000_0000),
            other => panic!("helper {other} on the way of an established packet"),
        };
        *self.cost.helpers.entry(name).or_default() += 1;
        self.registers[0] = result;
    }

    fn look_up(&mut self, map: u64, key: u64) {
        let name = self.machine.maps[usize::try_from(map - MAPS).unwrap()].clone();
        *self.cost.lookups.entry(name.clone()).or_default() += 1;
        let length = match name.as_str() {
            "flows" => 16,
            _ => 4,
        };
        let key = self.machine.bytes(key, length).to_vec();
        self.registers[0] = match self.machine.values.get(&(name.clone(), key)) {
            Some(address) => *address,
            None => 0,
        };
    }
}

fn low_half(value: u64) -> u32 {
    u32::try_from(value & u64::from(u32::MAX)).unwrap()
}

/// `BPF_END`: to the order of the other side, or only shortened where it is the machine's own.
fn swapped(value: u64, instruction: bpf_insn) -> u64 {
    let to_big = instruction.code & 8 != 0;
    let half_word = u16::try_from(value & u64::from(u16::MAX)).unwrap();
    match (instruction.imm, to_big) {
        (16, true) => half_word.swap_bytes().into(),
        (32, true) => low_half(value).swap_bytes().into(),
        (_, true) => value.swap_bytes(),
        (16, false) => half_word.into(),
        (32, false) => low_half(value).into(),
        (_, false) => value,
    }
}
