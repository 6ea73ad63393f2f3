// What stands beside the weights, and the certificate of a conversion.
#include <filesystem>
#include <map>

#include "configs/json_text.h"
#include "configs/load.h"
#include "data/files.h"
#include "data/vocabulary_file.h"
#include "engine/checkpoint/manifest.h"
#include "engine/convert/convert_target.h"
#include "engine/convert/exported_run.h"
#include "engine/convert/foreign_sides.h"
#include "engine/convert/weight_folder.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

namespace fs = std::filesystem;

absl::Status Put(const WorkFolder& work, const std::string& name, const std::string& text) {
  return WriteFileAtomically(work.path() + "/" + name, text);
}

std::string GenerationJson(const VocabularyInfo& vocabulary, bool own) {
  JsonObject json;
  json.AddRaw("eos_token_id", std::to_string(vocabulary.eos));
  if (vocabulary.bos >= 0) json.Add("bos_token_id", vocabulary.bos);
  json.Add("pad_token_id", vocabulary.pad >= 0 ? vocabulary.pad : vocabulary.eos);
  if (own) json.Add("use_cache", false);
  return json.Text() + "\n";
}

absl::Status AddFile(const WorkFolder& work, const std::string& name,
                     CheckpointManifest& manifest) {
  StoredFile& file = manifest.files[name];
  ASSIGN_OR_RETURN(file.bytes, FileSize(work.path() + "/" + name));
  ASSIGN_OR_RETURN(file.digest, FileDigest(work.path() + "/" + name));
  return absl::OkStatus();
}

// {"name": {"bytes": …, "xxh3": …}, …}
absl::StatusOr<std::string> FilesJson(const std::vector<std::string>& paths) {
  JsonObject json;
  for (const std::string& path : paths) {
    ASSIGN_OR_RETURN(const int64_t bytes, FileSize(path));
    ASSIGN_OR_RETURN(const std::string digest, FileDigest(path));
    JsonObject file;
    file.Add("bytes", bytes).Add("xxh3", digest);
    json.AddRaw(fs::path(path).filename().string(), file.Text());
  }
  return json.Text();
}

std::string NotesJson(const std::vector<TensorNote>& notes) {
  std::vector<std::string> all;
  for (const TensorNote& note : notes) {
    all.push_back(JsonObject().Add("tensor", note.name).Add("why", note.why).Text());
  }
  return JsonArray(all);
}

std::string TensorsJson(const Conversion& conversion) {
  std::vector<std::string> all;
  for (const PlannedFile& file : conversion.files) {
    for (const PlannedPart& part : file.parts) {
      const auto [name, dtype] = conversion.source.Origin(*part.tensor);
      std::vector<std::string> shape;
      for (const int64_t dim : part.shape) shape.push_back(std::to_string(dim));
      JsonObject json;
      json.AddRaw("from", name.empty() ? "null" : JsonString(name))
          .Add("to", part.name)
          .Add("file", file.name)
          .AddRaw("shape", JsonArray(shape))
          .AddRaw("from_dtype", name.empty() ? "null" : JsonString(dtype))
          .Add("to_dtype", ElementName(part.element));
      if (part.tensor->kind == "rows") {
        json.AddRaw("rows",
                    "[" + std::to_string(part.begin) + ", " + std::to_string(part.end) + "]");
      }
      all.push_back(json.Text());
    }
  }
  return JsonArray(all);
}

}  // namespace

absl::Status WriteForeignSides(const Conversion& conversion, const WorkFolder& work) {
  const ModelSource& source = conversion.source;
  const VocabularyInfo& vocabulary = source.vocabulary();
  const bool own = conversion.architecture == "mneme";
  RETURN_IF_ERROR(
      Put(work, "config.json",
          ForeignConfigJson(source.config(), source.stage(), vocabulary, conversion.architecture,
                            conversion.element, conversion.files)));
  RETURN_IF_ERROR(Put(work, kExportedRunName, DumpExportedRun(source.config(), source.position())));
  RETURN_IF_ERROR(WriteVocabulary(work.path() + "/" + kVocabularyName, vocabulary));
  if (conversion.files.size() > 1) {
    RETURN_IF_ERROR(Put(work, kIndexName, WeightIndexJson(conversion.files)));
  }
  std::map<std::string, std::string> texts = {
      {"generation_config.json", GenerationJson(vocabulary, own)}};
  for (const auto& [name, text] : TokenizerFiles(vocabulary)) texts[name] = text;
  for (const auto& [name, text] : source.texts()) texts[name] = text;
  if (own) {
    for (const auto& [name, text] : ModelingFiles()) texts[name] = text;
  }
  for (const auto& [name, text] : texts) RETURN_IF_ERROR(Put(work, name, text));
  return absl::OkStatus();
}

absl::Status WriteCheckpointSides(const Conversion& conversion, const WorkFolder& work) {
  const ModelSource& source = conversion.source;
  CheckpointManifest manifest;
  manifest.position = source.position();
  manifest.position.updates = 0;  // no moments: corrections of their bias begin anew
  manifest.position.recent_losses.clear();
  manifest.moments = false;
  manifest.dtype = conversion.element == Element::kF64 ? "f64" : "f32";
  manifest.ranks = 1;
  manifest.vocabulary = source.vocabulary();
  for (const PlannedFile& file : conversion.files) {
    for (const PlannedPart& part : file.parts) {
      const ModelTensor& t = *part.tensor;
      if (t.kind == "rows") {
        manifest.tables.push_back(
            {t.piece, file.name, part.name, part.end - part.begin, t.rows, t.cols, 0, 1});
      } else {
        manifest.slices.push_back(
            {t.piece, t.kind, file.name, part.name, 0, t.rows, t.rows, t.cols});
      }
    }
    RETURN_IF_ERROR(AddFile(work, file.name, manifest));
  }
  RETURN_IF_ERROR(Put(work, "config.yaml", DumpConfig(source.config())));
  RETURN_IF_ERROR(AddFile(work, "config.yaml", manifest));
  if (!source.vocabulary().tokenizer_json.empty()) {
    RETURN_IF_ERROR(Put(work, "tokenizer.json", source.vocabulary().tokenizer_json));
    RETURN_IF_ERROR(AddFile(work, "tokenizer.json", manifest));
  }
  return Put(work, "manifest.json", DumpCheckpointManifest(manifest));
}

absl::Status WriteCertificate(const Conversion& conversion, const WorkFolder& work,
                              const std::string& logits_json) {
  const ModelSource& source = conversion.source;
  std::vector<std::string> written;
  std::error_code error;
  ASSIGN_OR_RETURN(const auto entries, ListFolder(work.path()));
  for (const fs::directory_entry& entry : entries) {
    const std::string name = entry.path().filename().string();
    if (entry.is_regular_file(error) && name[0] != '.' && name != kCertificateName) {
      written.push_back(entry.path().string());
    }
  }
  std::sort(written.begin(), written.end());
  ASSIGN_OR_RETURN(const std::string before, FilesJson(source.Files()));
  ASSIGN_OR_RETURN(const std::string after, FilesJson(written));
  std::vector<std::string> notes;
  for (const std::string& note : source.notes()) notes.push_back(JsonString(note));
  JsonObject from;
  from.Add("format", source.format()).Add("path", source.path()).AddRaw("files", before);
  JsonObject to;
  to.Add("format", conversion.options.format).AddRaw("files", after);
  if (!conversion.architecture.empty()) to.Add("architecture", conversion.architecture);
  JsonObject json;
  json.Add("certificate", "mneme convert")
      .Add("version", 1)
      .AddRaw("from", from.Text())
      .AddRaw("to", to.Text())
      .AddRaw("left_out", NotesJson(source.left_out()))
      .AddRaw("made", NotesJson(source.made()))
      .AddRaw("notes", JsonArray(notes))
      .AddRaw("logits", logits_json)
      .AddRaw("tensors", TensorsJson(conversion));
  return Put(work, kCertificateName, json.Text() + "\n");
}

}  // namespace mneme
