// pythia-cpu tokenize: a text's token ids.
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/io.h"
#include "cli/json_writer.h"
#include "cli/model_tokenizer.h"
#include "cli/shipped_model.h"
#include "common/cpu_count.h"
#include "format/reader.h"

namespace pythia::cli {
namespace {

constexpr std::string_view kDescription =
    "Prints the token ids of a text, one a line. They are those of Hugging Face tokenizers, without\n"
    "special tokens added.\n\n"
    "TEXT is the text itself; - reads standard input, all of it: a newline at its end counts.\n\n"
    "  pythia-cpu tokenize \"Hello, world\"\n"
    "  pythia-cpu tokenize - < book.txt | wc -l\n";

int run_tokenize(const Command& command, std::span<const std::string_view> arguments) {
  std::string model_path, text_path;
  bool json = false;
  const std::vector<Option> table = {
      model_option(model_path),
      file_option("--file", 'f', "read the text from FILE", text_path),
      flag("--json", 0, "print a JSON object: tokens, and pieces, the text of each token", json),
  };
  if (wants_help(arguments, table)) {
    write_output(help_text(command, table));
    return 0;
  }
  const std::vector<std::string_view> rest = parse(arguments, table);
  if (rest.size() + !text_path.empty() != 1)
    throw UsageError("found " + std::to_string(rest.size() + !text_path.empty()) + " texts, expected one, in quotes, or -");

  const std::string text = rest.empty() ? read_text(text_path) : rest[0] == "-" ? read_text("-") : std::string(rest[0]);
  const auto file = PcpuFile::open(chosen_model_path(model_path), available_physical_cores());
  const auto tokenizer = open_tokenizer(*file);
  const std::vector<int32_t> ids = with_text_of(text_path, [&] { return tokenizer->encode(text); });
  if (!json) {
    std::string lines;
    for (const int32_t id : ids) lines += std::to_string(id) + "\n";
    write_output(lines);
    return 0;
  }
  JsonWriter writer;
  writer.begin_object().key("tokens").begin_array();
  for (const int32_t id : ids) writer.number(id);
  writer.end_array().key("pieces").begin_array();
  for (const int32_t id : ids) writer.string(tokenizer->token_bytes(id));
  writer.end_array().end_object();
  write_output(writer.text() + "\n");
  return 0;
}

}  // namespace

const Command kTokenizeCommand = {"tokenize", "[OPTION]... TEXT", "print a text's token ids", kDescription, &run_tokenize};

}  // namespace pythia::cli
