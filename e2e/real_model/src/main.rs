//! Sentence embeddings from a model directory, with candle: `real-model DIR [SENTENCES]`.
//!
//! `model.safetensors` is memory-mapped where it lies, so the pages that the inference reads are those of
//! the file system under test. Prints one line per sentence: the embedding's `f32` values as hexadecimal bits,
//! so that two runs compare bit for bit; on stderr, the mapping as the kernel lists it in `/proc/self/maps`.
//!
//! Run it with `RAYON_NUM_THREADS=1`: the order of additions, and with it every last bit, is then always the same.

use std::{env, fs, path::Path};

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use tokenizers::Tokenizer;

fn main() -> Result<()> {
    let mut args = env::args().skip(1);
    let usage = "usage: real-model MODEL_DIR SENTENCES_FILE";
    let model = args.next().context(usage)?;
    let sentences = fs::read_to_string(args.next().context(usage)?)?;
    let embedder = Embedder::open(Path::new(&model))?;
    let lines: Vec<&str> = sentences.lines().filter(|line| !line.is_empty()).collect();
    ensure!(!lines.is_empty(), "the sentences file is empty");
    for line in lines {
        let bits: Vec<String> = embedder
            .embed(line)?
            .iter()
            .map(|x| format!("{:08x}", x.to_bits()))
            .collect();
        println!("{}", bits.join(""));
    }
    eprintln!("{}", embedder.mapping);
    Ok(())
}

struct Embedder {
    bert: BertModel,
    tokenizer: Tokenizer,
    /// The weights' mapping while they were loaded, as `/proc/self/maps` listed it.
    mapping: String,
}

impl Embedder {
    fn open(dir: &Path) -> Result<Self> {
        let config: Config = serde_json::from_str(&fs::read_to_string(dir.join("config.json"))?)?;
        let tokenizer =
            Tokenizer::from_file(dir.join("tokenizer.json")).map_err(anyhow::Error::msg)?;
        #[expect(
            unsafe_code,
            reason = "mapping the file is the point; nothing writes to a published volume"
        )]
        // SAFETY: the mapped file is not changed while this process runs: a published volume is read-only
        // and its objects are immutable, and the original is the test's own.
        let weights = unsafe {
            VarBuilder::from_mmaped_safetensors(
                &[dir.join("model.safetensors")],
                DType::F32,
                &Device::Cpu,
            )?
        };
        let bert = BertModel::load(weights.clone(), &config)?;
        let mapping = mapping_of("model.safetensors")?;
        Ok(Self {
            bert,
            tokenizer,
            mapping,
        })
    }

    /// Mean of the last layer over the tokens, at unit length (the model card's pooling).
    fn embed(&self, sentence: &str) -> Result<Vec<f32>> {
        let encoding = self
            .tokenizer
            .encode(sentence, true)
            .map_err(anyhow::Error::msg)?;
        let tokens = encoding
            .get_attention_mask()
            .iter()
            .filter(|&&m| m == 1)
            .count();
        let ids = Tensor::new(
            encoding.get_ids().get(..tokens).context("short encoding")?,
            &Device::Cpu,
        )?
        .unsqueeze(0)?;
        let hidden = self.bert.forward(&ids, &ids.zeros_like()?, None)?;
        let mean = (hidden.sum(1)? / tokens as f64)?;
        let unit = mean.broadcast_div(&mean.sqr()?.sum_keepdim(1)?.sqrt()?)?;
        Ok(unit.squeeze(0)?.to_vec1()?)
    }
}

/// The line of `/proc/self/maps` for the file that ends in `name`.
fn mapping_of(name: &str) -> Result<String> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let line = maps.lines().find(|line| line.ends_with(name));
    Ok(line
        .with_context(|| format!("{name} is not mapped"))?
        .to_owned())
}
