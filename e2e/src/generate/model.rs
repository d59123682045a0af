//! A language model's directory as its publishers lay it out: safetensors shards with an index, and the
//! small JSON files around them. Headers are valid; weights are noise.
//!
//! Safetensors: 8 bytes little-endian length of the header, the header as JSON padded with spaces, then the
//! tensors back to back, each at `data_offsets` counted from the end of the header.

use super::{File, Noise, Tree};
use serde_json::{Map, Value, json};

/// What to generate.
#[derive(Clone, Debug)]
pub struct ModelSpec {
    /// Names the content.
    pub seed: u64,
    /// Sum of the shards' file sizes in bytes; small files come on top. A shard is never smaller than its header.
    pub size: u64,
    /// Number of safetensors files, at least one.
    pub shards: usize,
    /// Number of other files: `config.json` and its like first, then `extra/…` of up to 64 KiB.
    pub small_files: usize,
}

/// A generated model.
#[derive(Clone, Copy, Debug)]
pub struct Model;

impl Model {
    /// Generates the tree of `spec`; equal specs give equal bytes.
    pub fn generate(spec: &ModelSpec) -> Tree {
        let shards = spec.shards.max(1);
        let mut weight_map = Map::new();
        let mut files = Vec::new();
        for (number, size) in (1..).zip(shares(spec.size, shards)) {
            let path = shard_name(number, shards);
            let shard = Shard::new(number, size);
            for name in shard.names() {
                weight_map.insert(name.clone(), Value::from(path.clone()));
            }
            let noise = Noise::new(spec.seed, &path);
            files.push(File::generated(path, shard.size, shard.head, noise));
        }
        files.extend(small_files(spec, &weight_map));
        Tree::new(files)
    }
}

fn shares(size: u64, count: usize) -> impl Iterator<Item = u64> {
    let count = count as u64;
    (0..count).map(move |i| size / count + u64::from(i < size % count))
}

fn shard_name(number: usize, shards: usize) -> String {
    if shards == 1 {
        return "model.safetensors".to_owned();
    }
    format!("model-{number:05}-of-{shards:05}.safetensors")
}

struct Shard {
    size: u64,
    head: Vec<u8>,
    tensors: Map<String, Value>,
}

impl Shard {
    /// Lays out a file of `size` bytes, header included.
    fn new(number: usize, size: u64) -> Shard {
        let roomy = header_text(&tensors(number, size)).len() + 64;
        let text_len = roomy.next_multiple_of(8);
        let data = size.saturating_sub(8 + text_len as u64).max(2);
        let tensors = tensors(number, data);
        let text = header_text(&tensors);
        let mut head = (text_len as u64).to_le_bytes().to_vec();
        head.extend_from_slice(text.as_bytes());
        head.resize(8 + text_len, b' ');
        Shard {
            size: head.len() as u64 + data,
            head,
            tensors,
        }
    }

    fn names(&self) -> impl Iterator<Item = &String> {
        self.tensors.keys()
    }
}

fn header_text(tensors: &Map<String, Value>) -> String {
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    header.extend(tensors.clone());
    Value::Object(header).to_string()
}

/// Fills `data` bytes with the layers of a decoder; what is left over is one last tensor.
fn tensors(shard: usize, data: u64) -> Map<String, Value> {
    let hidden: u64 = match data {
        0..0x10_0000 => 64,
        0x10_0000..0x400_0000 => 256,
        0x400_0000..0x2000_0000 => 1024,
        _ => 4096,
    };
    let square = [hidden, hidden];
    let layer = [
        ("input_layernorm", vec![hidden]),
        ("self_attn.q_proj", square.to_vec()),
        ("self_attn.k_proj", square.to_vec()),
        ("self_attn.v_proj", square.to_vec()),
        ("self_attn.o_proj", square.to_vec()),
        ("mlp.gate_proj", vec![4 * hidden, hidden]),
        ("mlp.up_proj", vec![4 * hidden, hidden]),
        ("mlp.down_proj", vec![hidden, 4 * hidden]),
    ];
    let mut out = Map::new();
    let mut at = 0;
    'fill: for number in 0.. {
        for (name, shape) in &layer {
            let bytes = 2 * shape.iter().product::<u64>();
            if at + bytes > data {
                break 'fill;
            }
            let name = format!("model.layers.{}.{name}.weight", shard * 1000 + number);
            out.insert(name, tensor("BF16", shape, at..at + bytes));
            at += bytes;
        }
    }
    if at < data {
        let rest = data - at;
        let (dtype, len) = if rest.is_multiple_of(2) {
            ("BF16", rest / 2)
        } else {
            ("U8", rest)
        };
        out.insert(
            format!("model.rest.{shard}.weight"),
            tensor(dtype, &[len], at..data),
        );
    }
    out
}

fn tensor(dtype: &str, shape: &[u64], at: std::ops::Range<u64>) -> Value {
    json!({"dtype": dtype, "shape": shape, "data_offsets": [at.start, at.end]})
}

fn small_files(spec: &ModelSpec, weight_map: &Map<String, Value>) -> Vec<File> {
    let vocabulary: Map<String, Value> = (0..2000)
        .map(|i| {
            (
                format!(
                    "token{:06x}",
                    Noise::new(spec.seed, "vocabulary").number(i) & 0xff_ffff
                ),
                Value::from(i),
            )
        })
        .collect();
    let index = json!({"metadata": {"total_size": spec.size}, "weight_map": weight_map});
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "model_type": "llama",
        "num_attention_heads": 32, "torch_dtype": "bfloat16", "_seed": spec.seed,
    });
    let named = [
        ("config.json", config),
        (
            "tokenizer.json",
            json!({"version": "1.0", "model": {"type": "BPE", "vocab": vocabulary}}),
        ),
        ("model.safetensors.index.json", index),
        (
            "tokenizer_config.json",
            json!({"tokenizer_class": "PreTrainedTokenizerFast", "_seed": spec.seed}),
        ),
        (
            "generation_config.json",
            json!({"max_length": 4096, "temperature": 0.6, "_seed": spec.seed}),
        ),
    ];
    let named = named
        .into_iter()
        .map(|(path, value)| File::memory(path, format!("{value:#}\n")));
    let sizes = Noise::new(spec.seed, "sizes");
    let extra = (0..).map(|i| {
        File::random(
            format!("extra/{i:05}.bin"),
            1 + sizes.number(i) % 65_536,
            spec.seed,
        )
    });
    named.chain(extra).take(spec.small_files).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_header(file: &File) -> usize {
        let len = u64::from_le_bytes(file.read(0..8).unwrap()[..].try_into().unwrap());
        let text = file.read(8..8 + len).unwrap();
        let header: Map<String, Value> = serde_json::from_slice(&text).unwrap();
        let mut spans: Vec<(u64, u64)> = header
            .iter()
            .filter(|(name, _)| *name != "__metadata__")
            .map(|(_, t)| {
                let span = (
                    t["data_offsets"][0].as_u64().unwrap(),
                    t["data_offsets"][1].as_u64().unwrap(),
                );
                let elements: u64 = t["shape"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|d| d.as_u64().unwrap())
                    .product();
                let width = if t["dtype"] == "U8" { 1 } else { 2 };
                assert_eq!(span.1 - span.0, elements * width);
                span
            })
            .collect();
        spans.sort_unstable();
        let mut at = 0;
        for (start, end) in &spans {
            assert_eq!(*start, at);
            at = *end;
        }
        assert_eq!(8 + len + at, file.size(), "the tensors fill the file");
        spans.len()
    }

    #[test]
    fn shards_add_up_and_their_headers_describe_every_byte() {
        for (size, shards) in [(1 << 30, 4), (20 << 30, 16), (1_000_003, 3), (10, 1)] {
            let tree = Model::generate(&ModelSpec {
                seed: 1,
                size,
                shards,
                small_files: 0,
            });
            assert_eq!(tree.len(), shards);
            for file in tree.files() {
                assert!(check_header(file) >= 1);
            }
            assert!(size < 1000 || tree.size() == size);
        }
    }

    #[test]
    fn small_files_begin_with_the_configuration() {
        let spec = ModelSpec {
            seed: 1,
            size: 1 << 20,
            shards: 1,
            small_files: 8,
        };
        let tree = Model::generate(&spec);
        assert_eq!(tree.len(), 9);
        for name in [
            "config.json",
            "tokenizer.json",
            "model.safetensors.index.json",
        ] {
            let text = tree.file(name).unwrap().read_all().unwrap();
            assert!(serde_json::from_slice::<Value>(&text).is_ok());
        }
        assert!(tree.file("extra/00002.bin").unwrap().size() > 0);
    }
}
