//! Model files that cannot be used, and memory that cannot be locked.

#![expect(
    unsafe_code,
    reason = "limits and capabilities are set in a child before it starts"
)]

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use stent::engine;
use stent::engine::settings::Kernels;

use super::{data_folder, settings, tiny};
use crate::support::server::{command, demo_model, free_port};

fn refused(path: &Path) -> String {
    match engine::start(&settings(path), &data_folder()) {
        Ok(_) => panic!("{} was loaded", path.display()),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_file_that_is_no_model_is_named_with_its_fault() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    assert!(refused(&path).contains("cannot open"));
    let whole = tiny::bytes(tiny::Weights::Float);
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let said = refused(&path);
    assert!(
        said.contains("truncated") && said.contains(&whole.len().to_string()),
        "{said}"
    );
    std::fs::write(&path, vec![7; 4096]).unwrap();
    assert!(refused(&path).contains("expected \"GGUF\""));
    assert!(refused(folder.path()).contains("is a directory"));
}

#[test]
fn a_whole_file_with_a_wrong_inside_is_refused_by_llama_cpp_without_an_abort() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let whole = tiny::bytes(tiny::Weights::Float);
    let swap = |from: &[u8], to: &[u8]| {
        let mut bytes = whole.clone();
        let at = bytes
            .windows(from.len())
            .position(|window| window == from)
            .unwrap();
        bytes[at..at + from.len()].copy_from_slice(to);
        std::fs::write(&path, bytes).unwrap();
        refused(&path)
    };
    assert!(swap(b"\0llama", b"\0lloma").contains("unknown model architecture"));
    assert!(swap(b"output_norm.weight", b"output_form.weight").contains("output_norm.weight"));
    let said = swap(b"tokenizer.ggml.tokens", b"tokenizer.ggml.takens");
    assert!(said.contains("llama.cpp cannot load"), "{said}");
}

/// Runs in a child that may lock 64 KiB and has no privileges: see below.
#[test]
fn child_that_cannot_lock() {
    if std::env::var_os("STENT_TEST_NO_LOCK").is_none() {
        return;
    }
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    // One in llama.cpp's memory, one in that of Stent's kernels.
    for weights in [tiny::Weights::Float, tiny::Weights::KQuants] {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = settings(&tiny::write(folder.path(), weights));
        settings.mlock = true;
        let engine = engine::start(&settings, &data_folder()).unwrap();
        assert_eq!(engine.status().totals.locked_bytes, 0);
        assert!(engine.status().ready, "a failed lock is a warning");
    }
}

#[test]
fn a_lock_that_failed_is_not_claimed() {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", "engine::faults::child_that_cannot_lock"])
        .env("STENT_TEST_NO_LOCK", "1");
    // SAFETY: only system calls that are safe after a fork are made.
    unsafe {
        child.pre_exec(|| {
            let limit = libc::rlimit {
                rlim_cur: 64 << 10,
                rlim_max: 64 << 10,
            };
            libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit);
            // CAP_IPC_LOCK would make the limit void.
            libc::prctl(libc::PR_CAPBSET_DROP, 14, 0, 0, 0);
            Ok(())
        });
    }
    let output = child.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );
    let log = String::from_utf8_lossy(&output.stderr);
    let warning = log.lines().find(|line| line.contains(" WARN "));
    let warning = warning.unwrap_or_else(|| panic!("no warning in {log}"));
    for words in [
        "engine.mlock: only ",
        "because `ulimit -l` is 64 KiB; raise it to ",
        "(systemd: LimitMEMLOCK) or set engine.mlock = false",
    ] {
        assert!(warning.contains(words), "{warning}");
    }
}

#[test]
fn a_lock_that_worked_is_counted() {
    if stent::engine::memory::limit().is_some_and(|limit| limit < 64 << 20) && !may_lock() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(&tiny::write(folder.path(), tiny::Weights::Float));
    settings.mlock = true;
    let engine = engine::start(&settings, &data_folder()).unwrap();
    assert!(engine.status().totals.locked_bytes > 0);
}

/// Root may lock what it likes.
fn may_lock() -> bool {
    // SAFETY: geteuid only reads.
    unsafe { libc::geteuid() == 0 }
}

/// A mapped file stays resident beside the copies that suit the CPU; a file that is read does not, and
/// Stent's own kernels have it read if it holds weights for them.
#[test]
fn a_model_that_is_read_is_not_mapped() {
    use tiny::Weights::{KQuants, Quantised};
    let own = engine::cpu::own_possible();
    for (weights, kernels, mmap, mapped) in [
        (KQuants, Kernels::Ggml, true, true),
        (KQuants, Kernels::Ggml, false, false),
        (KQuants, Kernels::Auto, true, !own),
        (Quantised, Kernels::Auto, true, true),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let model = tiny::write(folder.path(), weights);
        let mut settings = settings(&model);
        settings.kernels = kernels;
        settings.mmap = mmap;
        let engine = engine::start(&settings, &data_folder()).unwrap();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        assert_eq!(maps.contains(&*model.to_string_lossy()), mapped);
        assert!(engine.status().ready);
    }
}

/// The first of the CPUs that this process may use.
fn first_cpu() -> libc::cpu_set_t {
    // SAFETY: a CPU set is plain bits, all zero is the empty one; the kernel writes no more than its
    // size into it, and the macros only read and set bits of it.
    unsafe {
        let mut all: libc::cpu_set_t = std::mem::zeroed();
        let size = size_of::<libc::cpu_set_t>();
        assert_eq!(libc::sched_getaffinity(0, size, &raw mut all), 0);
        let first = (0..libc::CPU_SETSIZE as usize).find(|&cpu| libc::CPU_ISSET(cpu, &all));
        let mut one: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(first.unwrap(), &mut one);
        one
    }
}

#[test]
fn threads_are_clamped_to_the_processs_own_cpus() {
    let folder = tempfile::tempdir().unwrap();
    let one = first_cpu();
    let mut child = command();
    child
        .args(["serve", "--set", "log.format=human", "--model"])
        .arg(demo_model())
        .args(["--set", "engine.n_ctx=2048", "--set", "engine.mlock=false"])
        .args([
            "--set",
            "engine.threads=8",
            "--set",
            "engine.threads_batch=3",
        ])
        // Nothing after the engine can start: the program ends by itself.
        .args(["--set", "policies.trim.config.no_such_key=1", "--data"])
        .arg(folder.path().join("data"))
        .arg("--policies")
        .arg(folder.path().join("policies"))
        .args(["--listen", &format!("127.0.0.1:{}", free_port())])
        .args(["--admin", &format!("127.0.0.1:{}", free_port())]);
    // SAFETY: only a system call that is safe after a fork is made.
    unsafe {
        child.pre_exec(move || {
            match libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const one) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    let output = child.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    for (key, asked) in [("threads", 8), ("threads_batch", 3)] {
        let line =
            format!("engine.{key}: {asked} asked for, 1 used, because this process may use 1 CPUs");
        assert!(said.contains(&line), "{said}");
    }
}
