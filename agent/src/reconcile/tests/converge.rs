//! From any crash point, and any order of wishes, the machine reaches what is desired.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Fault {
    Crash,
    LoseSandbox,
    Stop,
    Unwant,
    Retag,
}

fn faults() -> impl Strategy<Value = Vec<(u64, Fault)>> {
    let fault = prop_oneof![
        4 => Just(Fault::Crash),
        2 => Just(Fault::LoseSandbox),
        1 => Just(Fault::Stop),
        1 => Just(Fault::Unwant),
        1 => Just(Fault::Retag),
    ];
    proptest::collection::vec((0_u64..40, fault), 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn converges(faults in faults(), sidecar in any::<bool>()) {
        let init = if sidecar { json!({"name": "a", "image": "web", "restartPolicy": "Always"}) }
            else { json!({"name": "a", "image": "end:5:0"}) };
        let spec = |image: &str| json!({"initContainers": [init.clone()], "containers": [{"name": "web", "image": image}]});
        let mut world = World::new();
        world.want("web", spec("web"));
        let mut wanted = true;
        for (wait, fault) in faults {
            let until = world.now + wait;
            world.run(until);
            match fault {
                Fault::Crash => { world.crash(); }
                Fault::LoseSandbox if world.sandboxes.contains_key(&PodUid("web".into())) => { world.kill_sandbox("web"); }
                Fault::Stop if wanted => { world.stop("web", 1); wanted = false; }
                Fault::Unwant => { world.unwant("web"); wanted = false; }
                Fault::Retag if wanted => { world.want("web", spec("web2")); }
                _ => {}
            }
        }
        let until = world.now + 3_000_000;
        world.run(until);
        if wanted {
            let first = if sidecar { "Running" } else { "Completed/0" };
            prop_assert_eq!(shown(world.report("web")), format!("Running {first} Running"), "{:?}", world.log);
        } else {
            prop_assert!(world.sandboxes.is_empty(), "{:?}", world.log);
        }
        prop_assert!(world.jobs.is_empty());
    }
}
