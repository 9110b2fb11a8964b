//! The builds of the kernels, and which of them a processor may run.

/// A build of the kernels and the processor flags it needs.
#[derive(Debug, PartialEq, Eq)]
pub struct Variant {
    pub name: &'static str,
    needs: &'static [&'static str],
}

const AVX: &[&str] = &["avx", "sse4_2"];
const AVX2: &[&str] = &["avx2", "fma", "f16c", "bmi2"];
const VNNI: &[&str] = &["avx2", "fma", "f16c", "bmi2", "avx_vnni"];
const X512: &[&str] = &[
    "avx2", "fma", "f16c", "bmi2", "avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw",
];
const X512_VNNI: &[&str] = &[
    "avx2",
    "fma",
    "f16c",
    "bmi2",
    "avx512f",
    "avx512cd",
    "avx512vl",
    "avx512dq",
    "avx512bw",
    "avx512_vnni",
];
const ICELAKE: &[&str] = &[
    "avx2",
    "fma",
    "f16c",
    "bmi2",
    "avx512f",
    "avx512cd",
    "avx512vl",
    "avx512dq",
    "avx512bw",
    "avx512_vnni",
    "avx512vbmi",
];
const ZEN4: &[&str] = &[
    "avx2",
    "fma",
    "f16c",
    "bmi2",
    "avx512f",
    "avx512cd",
    "avx512vl",
    "avx512dq",
    "avx512bw",
    "avx512_vnni",
    "avx512vbmi",
    "avx512_bf16",
];

/// Fastest first: prompt tokens a second of a 7B shape (8 layers) on two cores were 84.5 with zen4,
/// 80.8 icelake, 79.4 skylakex, 57.3 alderlake, 56.8 haswell.
pub(super) const VARIANTS: &[Variant] = &[
    Variant {
        name: "zen4",
        needs: ZEN4,
    },
    Variant {
        name: "icelake",
        needs: ICELAKE,
    },
    Variant {
        name: "cascadelake",
        needs: X512_VNNI,
    },
    Variant {
        name: "skylakex",
        needs: X512,
    },
    Variant {
        name: "alderlake",
        needs: VNNI,
    },
    Variant {
        name: "haswell",
        needs: AVX2,
    },
    Variant {
        name: "sandybridge",
        needs: AVX,
    },
    Variant {
        name: "sse42",
        needs: &["sse4_2"],
    },
];

/// The processor, as /proc/cpuinfo describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Processor {
    pub model: String,
    pub flags: Vec<String>,
}

/// The variants that the processor's flags allow, fastest first.
pub fn candidates(processor: &Processor) -> Vec<&'static Variant> {
    let has = |flag: &&str| processor.flags.iter().any(|f| f == flag);
    VARIANTS
        .iter()
        .filter(|variant| variant.needs.iter().all(has))
        .collect()
}

impl Processor {
    /// The first processor of this machine.
    pub fn here() -> Self {
        Self::parse(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
    }

    fn parse(cpuinfo: &str) -> Self {
        let field = |name: &str| {
            cpuinfo.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                (key.trim() == name).then(|| value.trim().to_owned())
            })
        };
        Self {
            model: field("model name").unwrap_or_default(),
            flags: field("flags")
                .unwrap_or_default()
                .split(' ')
                .map(str::to_owned)
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best(flags: &str) -> Option<&'static str> {
        let cpuinfo =
            format!("processor : 0\nmodel name : Some CPU\nflags : {flags}\n\nprocessor : 1\n");
        candidates(&Processor::parse(&cpuinfo))
            .first()
            .map(|variant| variant.name)
    }

    #[test]
    fn flags_decide_and_amx_is_never_used() {
        let avx2 = "sse4_2 avx avx2 fma f16c bmi2";
        let avx512 = format!("{avx2} avx512f avx512cd avx512vl avx512dq avx512bw");
        assert_eq!(best("sse4_2"), Some("sse42"));
        assert_eq!(best(avx2), Some("haswell"));
        assert_eq!(best(&format!("{avx2} avx_vnni")), Some("alderlake"));
        assert_eq!(best(&avx512), Some("skylakex"));
        let all = format!("{avx512} avx512_vnni avx512vbmi avx512_bf16 amx_tile amx_int8");
        assert_eq!(best(&all), Some("zen4"));
        assert_eq!(best("mmx"), None);
    }
}
