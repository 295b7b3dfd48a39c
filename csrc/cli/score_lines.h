// `pythia-cpu score` of JSON lines: a record a line, with "text", or with "context" and "continuation".
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "cli/line_reader.h"
#include "model/model.h"
#include "score/scorer.h"
#include "text/tokenizer.h"

namespace pythia::cli {

struct LineScoring {
  std::shared_ptr<Model> model;
  const Tokenizer& tokenizer;
  std::function<std::vector<ScoreRequest>(std::span<const int32_t>)> windows;  // how a text's tokens are cut
  bool per_token = false;
};

// Scores every record of `lines` and writes an object a line to standard output, in order, with the record's number "index",
// its "id" if it has one, and what write_members says. Records run together, as many as take some seconds, or as are there
// when more has to be waited for, and contexts that they share are computed once. Empty lines are left out. Ends early once
// interrupted().
// Throws std::invalid_argument naming the line: no JSON, no such record, or one that cannot be scored. All before it is
// written.
void score_lines(const LineScoring& scoring, LineReader& lines);

}  // namespace pythia::cli
