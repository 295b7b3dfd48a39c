// pythia-cpu info: what a .pcpu file is.
#include <algorithm>
#include <iterator>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/hexadecimal.h"
#include "cli/io.h"
#include "cli/json_writer.h"
#include "cli/model_tokenizer.h"
#include "cli/shipped_model.h"
#include "common/cpu_count.h"
#include "format/reader.h"

namespace pythia::cli {
namespace {

constexpr std::string_view kDescription =
    "Checks a .pcpu file, all of it, and prints what it is: sizes, weight format, hyperparameters and where\n"
    "the weights came from. Without FILE: the model that is used when none is named.\n\n"
    "  pythia-cpu info pythia-70m.pcpu\n"
    "  pythia-cpu info --json pythia-70m.pcpu\n";

// Metadata that is shown; the checkpoint's whole config.json is there too.
constexpr const char* kProvenanceKeys[] = {"source",           "revision",          "commit", "edited", "converter_version",
                                           "tokenizer_sha256", "tokenizer_revision"};

uint64_t num_parameters(const PcpuFile& file) {
  uint64_t count = 0;
  for (const TensorRecord& tensor : file.tensors())
    if (!tensor.derived) count += tensor.rows * tensor.cols;
  return count;
}

// "converter_version" as "converter version".
std::string with_spaces(std::string key) {
  std::ranges::replace(key, '_', ' ');
  return key;
}

std::string format_name(uint32_t format) { return std::string(name_of(static_cast<WeightFormat>(format))); }

void write_config(JsonWriter& json, const Config& c) {
  const auto id = [&](const char* key, int32_t value) {
    json.key(key);
    value < 0 ? json.null() : json.number(value);
  };
  json.begin_object();
  json.key("vocab_size").number(c.vocab_size).key("hidden_size").number(c.hidden_size);
  json.key("num_hidden_layers").number(c.num_hidden_layers).key("num_attention_heads").number(c.num_attention_heads);
  json.key("intermediate_size").number(c.intermediate_size);
  json.key("max_position_embeddings").number(c.max_position_embeddings).key("rotary_ndims").number(c.rotary_ndims);
  json.key("rotary_emb_base").number(c.rotary_emb_base).key("layer_norm_eps").number(c.layer_norm_eps);
  json.key("hidden_act").string(name_of(c.hidden_act));
  json.key("use_parallel_residual").boolean(c.use_parallel_residual);
  json.key("tie_word_embeddings").boolean(c.tie_word_embeddings).key("attention_bias").boolean(c.attention_bias);
  id("bos_token_id", c.bos_token_id);
  id("eos_token_id", c.eos_token_id);
  json.end_object();
}

std::string to_json(const PcpuFile& file, int32_t tokenizer_size) {
  JsonWriter json;
  json.begin_object();
  json.key("file").string(file.path()).key("size_bytes").number(file.size_bytes());
  json.key("format_version").number(file.header().version).key("weights").string(name_of(file.weight_format()));
  json.key("fingerprint");
  const uint64_t fingerprint = file.header().fingerprint;
  fingerprint == 0 ? json.null() : json.string(hexadecimal(fingerprint));
  json.key("num_parameters").number(num_parameters(file)).key("tokenizer_vocab_size").number(tokenizer_size);
  json.key("config");
  write_config(json, file.config());
  for (const char* key : kProvenanceKeys) {
    json.key(key);
    const auto it = file.metadata().find(key);
    it == file.metadata().end() ? json.null() : json.string(it->second);
  }
  json.key("tensors").begin_array();
  for (const TensorRecord& tensor : file.tensors()) {
    json.begin_object();
    json.key("name").string(tensor.name).key("layout").string(name_of(static_cast<Layout>(tensor.layout)));
    json.key("format").string(format_name(tensor.format)).key("source_dtype").string(format_name(tensor.source_dtype));
    json.key("rows").number(tensor.rows).key("cols").number(tensor.cols).key("size_bytes").number(tensor.size_bytes);
    json.key("source_sha256");
    tensor.derived ? json.null() : json.string(hexadecimal(tensor.source_sha256));
    json.end_object();
  }
  json.end_array().end_object();
  return json.text() + "\n";
}

// "2238464" -> "2,238,464".
std::string grouped(uint64_t number) {
  std::string digits = std::to_string(number);
  for (size_t i = digits.size(); i > 3; i -= 3) digits.insert(i - 3, 1, ',');
  return digits;
}

// Anything may be in a file, also what moves a terminal's cursor: control characters become \xNN.
std::string visible(std::string_view text) {
  std::string shown;
  for (const char c : text) {
    const uint8_t byte[] = {static_cast<uint8_t>(c)};
    shown += byte[0] < 0x20 || byte[0] == 0x7f ? "\\x" + hexadecimal(byte) : std::string(1, c);
  }
  return shown;
}

std::string to_text(const PcpuFile& file, int32_t tokenizer_size) {
  const Config& c = file.config();
  std::string text;
  const auto line = [&](std::string name, std::string_view value) {
    name.resize(20, ' ');
    text += name + std::string(value) + "\n";
  };
  line("file", file.path());
  line("size", grouped(file.size_bytes()) + " bytes, format version " + std::to_string(file.header().version));
  line("weights", std::string(name_of(file.weight_format())) + ", " + grouped(num_parameters(file)) + " parameters in " +
                      std::to_string(file.tensors().size()) + " tensors");
  line("layers",
       std::to_string(c.num_hidden_layers) + (c.use_parallel_residual ? ", parallel residual" : ", sequential residual"));
  line("hidden size",
       std::to_string(c.hidden_size) + ", inner " + std::to_string(c.intermediate_size) + ", " + name_of(c.hidden_act));
  line("attention heads", std::to_string(c.num_attention_heads) + " of " + std::to_string(c.head_dim()) + ", " +
                              std::to_string(c.rotary_ndims) + " of these rotary");
  line("context length", std::to_string(c.max_position_embeddings));
  line("vocabulary", std::to_string(c.vocab_size) + " outputs, " + std::to_string(tokenizer_size) + " tokens" +
                         (c.eos_token_id < 0 ? "" : ", end of text " + std::to_string(c.eos_token_id)));
  for (const char* key : kProvenanceKeys)
    if (const auto it = file.metadata().find(key); it != file.metadata().end())
      line(with_spaces(it->first), visible(it->second));
  const uint64_t fingerprint = file.header().fingerprint;
  line("fingerprint", fingerprint == 0 ? "none" : hexadecimal(fingerprint) + " (of the logits; see pythia-cpu verify)");
  return text;
}

int run_info(const Command& command, std::span<const std::string_view> arguments) {
  std::string model_path;
  bool json = false;
  const std::vector<Option> table = {
      model_option(model_path),
      flag("--json", 0, "print a JSON object, with every tensor and its source's sha256", json),
  };
  if (wants_help(arguments, table)) {
    write_output(help_text(command, table));
    return 0;
  }
  take_model_argument(parse(arguments, table), model_path);

  const auto file = PcpuFile::open(chosen_model_path(model_path), available_physical_cores());
  const int32_t tokenizer_size = open_tokenizer(*file)->vocab_size();
  write_output(json ? to_json(*file, tokenizer_size) : to_text(*file, tokenizer_size));
  return 0;
}

}  // namespace

const Command kInfoCommand = {"info", "[OPTION]... [FILE]", "say what a .pcpu file is", kDescription, &run_info};

}  // namespace pythia::cli
