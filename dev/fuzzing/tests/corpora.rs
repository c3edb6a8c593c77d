//! Every input that a corpus keeps is replayed, and targets, programs and corpora belong together. What a fuzzer found stays found.
#![allow(clippy::expect_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    panic::catch_unwind,
    path::{Path, PathBuf},
};

use eventpulse_fuzzing::{TARGETS, Target};

/// The most inputs of a corpus, and bytes of an input: they are read by people too, and replayed by every build.
const INPUTS_MAX: usize = 60;
const INPUT_BYTES_MAX: usize = 4096;
const INPUTS_MIN: usize = 5;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

fn names(folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(fuzz().join(folder)).expect("the folder is there");
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name")).collect()
}

fn corpus(target: &Target) -> BTreeMap<String, Vec<u8>> {
    let folder = format!("corpus/{}", target.name);
    let read = |name: String| {
        let bytes = fs::read(fuzz().join(&folder).join(&name)).expect("an input");
        (name, bytes)
    };
    names(&folder).into_iter().map(read).collect()
}

#[test]
fn every_input_that_was_kept_holds() {
    let mut broken = Vec::new();
    let mut replayed = 0;
    for target in TARGETS {
        for (name, bytes) in corpus(target) {
            replayed += 1;
            if catch_unwind(|| (target.run)(&bytes)).is_err() {
                broken.push(format!("fuzz/corpus/{}/{name}", target.name));
            }
        }
    }
    assert!(broken.is_empty(), "what does not hold stands above, each for one of {broken:#?}");
    assert!(replayed >= INPUTS_MIN * TARGETS.len(), "only {replayed} inputs");
}

/// Inputs of one target are hostile bytes for every other.
#[test]
fn a_target_takes_the_inputs_of_every_other() {
    let inputs: Vec<Vec<u8>> = TARGETS.iter().flat_map(|target| corpus(target).into_values().take(3)).collect();
    for target in TARGETS {
        inputs.iter().for_each(|bytes| (target.run)(bytes));
    }
}

#[test]
fn each_target_has_a_program_and_a_corpus_and_each_of_them_a_target() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(targets.len(), TARGETS.len(), "a name stands twice");
    assert_eq!(names("corpus"), targets, "fuzz/corpus");
    let programs: BTreeSet<String> = targets.iter().map(|name| format!("{name}.rs")).collect();
    assert_eq!(names("fuzz_targets"), programs, "fuzz/fuzz_targets");
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).expect("a manifest");
    assert_eq!(manifest.matches("[[bin]]").count(), targets.len(), "fuzz/Cargo.toml");
    for name in &targets {
        let program = fs::read_to_string(fuzz().join(format!("fuzz_targets/{name}.rs"))).expect("a program");
        let runs = format!("|data: &[u8]| eventpulse_fuzzing::{name}(data));\n");
        assert!(
            program.starts_with("#![no_main]\n\nlibfuzzer_sys::fuzz_target!(") && program.ends_with(&runs),
            "{name}.rs"
        );
        assert!(manifest.contains(&format!("\npath = \"fuzz_targets/{name}.rs\"\n")), "fuzz/Cargo.toml lacks {name}");
    }
}

#[test]
fn corpora_are_small() {
    for target in TARGETS {
        let corpus = corpus(target);
        let name = target.name;
        assert!((INPUTS_MIN..=INPUTS_MAX).contains(&corpus.len()), "fuzz/corpus/{name} has {} inputs", corpus.len());
        for (input, bytes) in corpus {
            let length = bytes.len();
            assert!(length <= INPUT_BYTES_MAX, "fuzz/corpus/{name}/{input} has {length} bytes");
        }
    }
}
