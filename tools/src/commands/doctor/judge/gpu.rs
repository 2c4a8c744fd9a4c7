//! Findings about GPUs.

use super::{Finding, Level};
use crate::commands::doctor::{Facts, machine::Module};

pub(super) fn judge(facts: &Facts, findings: &mut Vec<Finding>) {
    let Facts { machine, rdma, gpus } = facts;
    if let Some(error) = &gpus.error {
        let cards = machine.gpus.join(", ");
        match (machine.gpus.is_empty(), gpus.driver) {
            // No GPU, no driver: nothing is missing.
            (true, false) => {}
            (true, true) => findings.push(Finding::new(Level::Note, "CUDA", error)),
            (false, false) => {
                findings.push(Finding::new(Level::Warning, "CUDA", format!("there is a GPU ({cards}), and {error}")));
            }
            (false, true) => {
                let what = format!("there is a GPU ({cards}) that CUDA cannot use: {error}");
                findings.push(Finding::new(Level::Problem, "CUDA", what));
            }
        }
    }
    if rdma.devices.is_empty() {
        return;
    }
    for gpu in gpus.devices.iter().filter(|gpu| !gpu.gpu_direct) {
        let about = format!("cuda:{}", gpu.device);
        let what = "RDMA devices cannot reach its memory: values are copied through memory of the host";
        findings.push(
            Finding::new(Level::Warning, about, what)
                .fix("modprobe nvidia_peermem; or NVIDIA's open kernel modules, whose memory is exported as dma-buf"),
        );
    }
    let by_dma_buf = |gpu: &&super::super::gpu::Gpu| gpu.gpu_direct && gpu.dma_buf;
    let peermem = machine.module("nvidia_peermem") == Module::Loaded;
    for device in rdma.devices.iter().filter(|device| device.dma_buf == Some(false)) {
        if gpus.devices.iter().any(|gpu| by_dma_buf(&gpu)) && !peermem {
            let what =
                "it cannot register dma-buf memory: values in a GPU's memory are copied through memory of the host";
            let finding = Finding::new(Level::Warning, &device.name, what);
            findings.push(finding.fix("modprobe nvidia_peermem, or a newer kernel and driver of the card"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::{
        gpu::Gpus,
        made_up::{connectx, gpu, plain, soft_roce},
    };

    fn findings(facts: &Facts) -> Vec<(Level, String, String)> {
        let mut findings = Vec::new();
        judge(facts, &mut findings);
        findings.into_iter().map(|f| (f.level, f.about, format!("{} {}", f.what, f.fix.join(" ")))).collect()
    }

    #[test]
    fn a_driver_that_is_missing_matters_where_there_is_a_gpu() {
        let with = |cards: &[&str], driver| {
            let mut facts = plain();
            facts.machine.gpus = cards.iter().map(|card| (*card).to_owned()).collect();
            facts.gpus = Gpus { devices: Vec::new(), driver, error: Some("it is so".to_owned()) };
            findings(&facts)
        };
        assert_eq!(with(&[], false), []);
        let [(level, about, text)] = with(&["0000:17:00.0"], false).try_into().unwrap();
        assert_eq!((level, about.as_str()), (Level::Warning, "CUDA"));
        assert!(text.contains("0000:17:00.0") && text.contains("it is so"), "{text}");
        assert_eq!(with(&["0000:17:00.0"], true)[0].0, Level::Problem);
        assert_eq!(with(&[], true)[0].0, Level::Note);
    }

    #[test]
    fn the_way_between_gpu_and_card() {
        let mut facts = connectx();
        facts.gpus = Gpus { devices: vec![gpu()], driver: true, error: None };
        assert_eq!(findings(&facts), []);

        facts.rdma.devices[0].dma_buf = Some(false);
        let [(level, about, text)] = findings(&facts).try_into().unwrap();
        assert_eq!((level, about.as_str()), (Level::Warning, "mlx5_0"));
        assert!(text.contains("modprobe nvidia_peermem"), "{text}");
        facts.machine.modules = [("nvidia_peermem", Module::Loaded)].into();
        assert_eq!(findings(&facts), []);

        let mut facts = soft_roce();
        facts.gpus = Gpus { devices: vec![gpu()], driver: true, error: None };
        facts.gpus.devices[0].gpu_direct = false;
        let [(level, about, _)] = findings(&facts).try_into().unwrap();
        assert_eq!((level, about.as_str()), (Level::Warning, "cuda:0"));
        // Without RDMA there is no such way, and nothing is missing.
        facts.rdma.devices.clear();
        assert_eq!(findings(&facts), []);
    }
}
