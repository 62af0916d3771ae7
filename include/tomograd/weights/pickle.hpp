// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// An unpickler that executes nothing. Pickle is a program for a stack machine; PyTorch's files use it to describe dictionaries of
// tensors. This one builds inert nodes: a GLOBAL must be on the list below (what torch's weights_only allows, and a few bystanders of
// checkpoints that stay opaque), anything else is refused by its full name. Nodes lie in one flat array and refer to each other by
// number: nesting costs no stack, cycles no loop, destruction no recursion. Memory and time are linear in the pickle's size, and the sizes
// that it claims (shapes, storages) are only checked here, never allocated.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "types.hpp"

namespace tomograd::inline TOMOGRAD_ABI::weights::detail {

inline constexpr std::uint64_t kPickleBytes = std::uint64_t{64} << 20;  // a state dict's pickle has some 100 bytes per tensor
/// Objects that a pickle of so many bytes may make: state dicts take some seven bytes for one, and an object takes 64 of memory.
inline constexpr std::size_t most_objects(std::size_t bytes) { return (std::size_t{1} << 16) + bytes / 4; }

struct PickleGlobal;

struct PickleNode {
  enum Kind : std::uint8_t {
    none,
    boolean,
    integer,
    big_integer,
    real,
    text,
    bytes,
    list,
    tuple,
    dict,
    set,
    global,
    storage,
    tensor,
    opaque
  };
  Kind kind = none;
  std::int64_t number = 0;           // boolean, integer; index of global, storage or tensor
  double value = 0;                  // real
  std::string_view string;           // text, bytes, digits of big_integer: points into the pickle
  std::vector<std::uint32_t> items;  // list, tuple, set; dict as key, value, key, value …
};

struct StorageRef {
  std::string_view key, location;
  FileType type;
  std::string_view type_name;
  std::uint64_t element_size;  // bytes
  std::int64_t count;          // elements of the whole storage
  std::int64_t view_offset;    // legacy files: a window into it, in elements
  std::int64_t view_count;
};

struct TensorRef {
  std::uint32_t storage;
  FileType type;
  std::string_view type_name;
  std::uint64_t element_size;
  std::int64_t offset;  // elements from the storage's start (view_offset included)
  std::int64_t count;   // elements of the tensor
  std::int64_t span;    // elements from the first to one past the last touched
  std::vector<std::int64_t> shape, strides;
  bool contiguous;
};

struct Pickle {
  std::vector<PickleNode> nodes;
  std::vector<StorageRef> storages;
  std::vector<TensorRef> tensors;
  std::uint32_t root = 0;
  std::size_t used = 0;    // bytes up to and with STOP
  bool truncated = false;  // the bytes ended before STOP: root is meaningless

  const PickleNode& at(std::uint32_t i) const { return nodes[i]; }
};

/// Runs the pickle that starts `bytes`; they must outlive the result. Throws through source for everything hostile or unknown.
/// `position` is where bytes lie in the file, for messages.
TOMOGRAD_INLINE Pickle unpickle(std::string_view bytes, const Source& source, std::uint64_t position);

#if TOMOGRAD_BODIES
struct PickleGlobal {
  enum Call : std::uint8_t {
    ordered_dict,
    tensor_v1,
    tensor_v2,
    tensor_v3,
    first_argument,
    from_type,
    size,
    storage_type,
    element_type,
    opaque
  };
  std::string_view name;
  Call call = opaque;
  FileType type = FileType::other;
  std::uint64_t element_size = 0;
};

/// The allow-list. Nothing here is code that runs: `call` says what inert node a REDUCE makes.
inline constexpr PickleGlobal kPickleGlobals[] = {
    {"collections.OrderedDict", PickleGlobal::ordered_dict},
    {"torch._utils._rebuild_tensor", PickleGlobal::tensor_v1},
    {"torch._utils._rebuild_tensor_v2", PickleGlobal::tensor_v2},
    {"torch._utils._rebuild_tensor_v3", PickleGlobal::tensor_v3},
    {"torch._utils._rebuild_parameter", PickleGlobal::first_argument},
    {"torch._utils._rebuild_parameter_with_state", PickleGlobal::first_argument},
    {"torch._tensor._rebuild_from_type_v2", PickleGlobal::from_type},
    {"torch.Size", PickleGlobal::size},
    {"torch.FloatStorage", PickleGlobal::storage_type, FileType::f32, 4},
    {"torch.DoubleStorage", PickleGlobal::storage_type, FileType::f64, 8},
    {"torch.HalfStorage", PickleGlobal::storage_type, FileType::f16, 2},
    {"torch.BFloat16Storage", PickleGlobal::storage_type, FileType::bf16, 2},
    {"torch.LongStorage", PickleGlobal::storage_type, FileType::i64, 8},
    {"torch.IntStorage", PickleGlobal::storage_type, FileType::i32, 4},
    {"torch.ShortStorage", PickleGlobal::storage_type, FileType::i16, 2},
    {"torch.CharStorage", PickleGlobal::storage_type, FileType::i8, 1},
    {"torch.ByteStorage", PickleGlobal::storage_type, FileType::u8, 1},
    {"torch.BoolStorage", PickleGlobal::storage_type, FileType::boolean, 1},
    {"torch.ComplexFloatStorage", PickleGlobal::storage_type, FileType::other, 8},
    {"torch.ComplexDoubleStorage", PickleGlobal::storage_type, FileType::other, 16},
    {"torch.storage.UntypedStorage", PickleGlobal::storage_type, FileType::u8, 1},
    {"torch.float32", PickleGlobal::element_type, FileType::f32, 4},
    {"torch.float64", PickleGlobal::element_type, FileType::f64, 8},
    {"torch.float16", PickleGlobal::element_type, FileType::f16, 2},
    {"torch.bfloat16", PickleGlobal::element_type, FileType::bf16, 2},
    {"torch.int64", PickleGlobal::element_type, FileType::i64, 8},
    {"torch.int32", PickleGlobal::element_type, FileType::i32, 4},
    {"torch.int16", PickleGlobal::element_type, FileType::i16, 2},
    {"torch.int8", PickleGlobal::element_type, FileType::i8, 1},
    {"torch.uint8", PickleGlobal::element_type, FileType::u8, 1},
    {"torch.bool", PickleGlobal::element_type, FileType::boolean, 1},
    {"torch.uint16", PickleGlobal::element_type, FileType::other, 2},
    {"torch.uint32", PickleGlobal::element_type, FileType::other, 4},
    {"torch.uint64", PickleGlobal::element_type, FileType::other, 8},
    {"torch.complex64", PickleGlobal::element_type, FileType::other, 8},
    {"torch.complex128", PickleGlobal::element_type, FileType::other, 16},
    {"torch.float8_e4m3fn", PickleGlobal::element_type, FileType::f8_e4m3, 1},
    {"torch.float8_e5m2", PickleGlobal::element_type, FileType::f8_e5m2, 1},
    // Bystanders: optimiser states, arguments and best scores beside the weights. Never looked into.
    {"torch.nn.parameter.Parameter"},
    {"torch.nn.Parameter"},
    {"torch.Tensor"},
    {"torch.device"},
    {"torch.torch_version.TorchVersion"},
    {"argparse.Namespace"},
    {"collections.defaultdict"},
    {"collections.Counter"},
    {"datetime.datetime"},
    {"datetime.timedelta"},
    {"pathlib.Path"},
    {"pathlib.PosixPath"},
    {"pathlib.WindowsPath"},
    {"builtins.frozenset"},
    {"builtins.set"},
    {"builtins.dict"},
    {"builtins.list"},
    {"builtins.int"},
    {"builtins.float"},
    {"__builtin__.set"},
    {"__builtin__.dict"},
    {"__builtin__.list"},
    {"_codecs.encode"},
    {"numpy.dtype"},
    {"numpy.ndarray"},
    {"numpy.core.multiarray.scalar"},
    {"numpy.core.multiarray._reconstruct"},
    {"numpy._core.multiarray.scalar"},
    {"numpy._core.multiarray._reconstruct"},
};

class Unpickler {
 public:
  Unpickler(std::string_view bytes, const Source& source, std::uint64_t position) : bytes_(bytes), source_(source), position_(position) {
    out_.nodes.reserve(std::min<std::size_t>(bytes.size() / 8 + 16, 1 << 16));
  }

  Pickle run() {
    while (!done_) {
      op_at_ = at_;
      const auto op = static_cast<unsigned char>(take(1).empty() ? 0 : bytes_[at_ - 1]);
      if (!short_) step(op);
      if (short_) {
        out_.truncated = true;
        break;
      }
    }
    out_.used = at_;
    return std::move(out_);
  }

 private:
  using Node = PickleNode;

  [[noreturn]] void refuse(const std::string& what, std::string hint = "download it again") const {
    source_.refuse("pickle at byte " + std::to_string(position_ + op_at_) + ": " + what, std::move(hint));
  }

  // ---- bytes. Reading past the end sets short_ and returns nothing; the loop stops after the opcode.
  std::string_view take(std::uint64_t n) {
    if (short_ || n > bytes_.size() - at_) return short_ = true, std::string_view{};
    const std::string_view out = bytes_.substr(at_, static_cast<std::size_t>(n));
    at_ += static_cast<std::size_t>(n);
    return out;
  }
  std::uint64_t number(std::size_t n) {
    std::uint64_t v = 0;
    const std::string_view b = take(n);
    for (std::size_t i = 0; i < b.size(); ++i) v |= std::uint64_t{static_cast<unsigned char>(b[i])} << (8 * i);
    return v;
  }
  std::string_view line() {
    const std::size_t end = bytes_.find('\n', at_);
    if (end == std::string_view::npos) return short_ = true, std::string_view{};
    const std::string_view out = bytes_.substr(at_, end - at_);
    at_ = end + 1;
    return out;
  }

  // ---- nodes and stack
  std::uint32_t make(Node::Kind kind, std::int64_t v = 0, std::string_view s = {}) {
    if (const std::size_t most = most_objects(bytes_.size()); out_.nodes.size() >= most)
      refuse("more than " + std::to_string(most) + " objects", "this is no state dict");
    Node& n = out_.nodes.emplace_back();
    n.kind = kind;
    n.number = v;
    n.string = s;
    return static_cast<std::uint32_t>(out_.nodes.size() - 1);
  }
  void push(std::uint32_t i) { stack_.push_back(i); }
  Node& node(std::uint32_t i) { return out_.nodes[i]; }
  std::size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }
  std::uint32_t pop() {
    if (stack_.size() <= floor()) refuse("takes more from the stack than it put there");
    const std::uint32_t i = stack_.back();
    stack_.pop_back();
    return i;
  }
  std::uint32_t top() {
    if (stack_.size() <= floor()) refuse("looks at an empty stack");
    return stack_.back();
  }
  std::vector<std::uint32_t> pop_mark() {
    if (marks_.empty()) refuse("misses a mark");
    const auto from = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    marks_.pop_back();
    std::vector<std::uint32_t> items(from, stack_.end());
    stack_.erase(from, stack_.end());
    return items;
  }
  void push_items(Node::Kind kind, std::vector<std::uint32_t> items) {
    const std::uint32_t i = make(kind);
    node(i).items = std::move(items);
    push(i);
  }
  void append(std::span<const std::uint32_t> items, std::initializer_list<Node::Kind> kinds) {
    Node& n = node(top());
    if (n.kind == Node::opaque) return;
    if (std::find(kinds.begin(), kinds.end(), n.kind) == kinds.end()) refuse("adds items to something that has none");
    if (n.kind == Node::dict && items.size() % 2) refuse("sets a key without a value");
    n.items.insert(n.items.end(), items.begin(), items.end());
  }
  void remember(std::uint64_t i) {
    if (short_) return;
    // Picklers count up, so an honest number is below the bytes read so far: the memo stays as small as the pickle.
    if (i > at_) refuse("memo number " + std::to_string(i) + " is out of bounds");
    if (memo_.size() <= i) memo_.resize(static_cast<std::size_t>(i) + 1, kNothing);
    memo_[static_cast<std::size_t>(i)] = top();
  }
  void recall(std::uint64_t i) {
    if (short_) return;
    if (i >= memo_.size() || memo_[static_cast<std::size_t>(i)] == kNothing) refuse("memo " + std::to_string(i) + " was never filled");
    push(memo_[static_cast<std::size_t>(i)]);
  }

  // ---- globals and calls
  /// Calls may go over the same items again and again (h1 R h1 R …): what they go over in all stays near the pickle's size.
  void spend(std::size_t items) {
    spent_ += items;
    if (spent_ > 4 * bytes_.size() + 1024) refuse("calls that go over the same items again and again", "this is no state dict");
  }
  void find_global(std::string_view module, std::string_view name) {
    if (short_) return;
    std::string full = std::string(module.substr(0, 200)) + "." + std::string(name.substr(0, 200));
    constexpr std::string_view kCuda = "torch.cuda.";
    const bool storage = full.size() > 7 && full.ends_with("Storage");
    const std::string known = storage && full.starts_with(kCuda) ? "torch." + full.substr(kCuda.size()) : full;
    for (std::size_t i = 0; i < std::size(kPickleGlobals); ++i)
      if (kPickleGlobals[i].name == known) return push(make(Node::global, static_cast<std::int64_t>(i)));
    if (module == "posix" || module == "nt") full = "os." + std::string(name.substr(0, 200)) + " (written as " + full + ")";
    for (char& c : full)
      if (static_cast<unsigned char>(c) < 0x20) c = '?';
    const bool model = module.starts_with("torch.nn.modules") || module.starts_with("torchvision.models") || module.starts_with("timm.");
    source_.refuse("refuses to call " + full + ", at byte " + std::to_string(position_ + op_at_) +
                       (model ? ": the file holds a whole Python object, not a state dict" : ": nothing in a weight file is executed"),
                   model ? "in Python: torch.save(model.state_dict(), \"weights.pth\")"
                         : "if you trust the file, in Python: torch.save(model.state_dict(), \"weights.pth\")");
  }
  static const PickleGlobal& global(const Node& n) { return kPickleGlobals[static_cast<std::size_t>(n.number)]; }

  const Node& argument(const Node& args, std::size_t i, Node::Kind kind, const char* what) {
    if (i >= args.items.size() || node(args.items[i]).kind != kind)
      refuse(std::string("a tensor's ") + what + " is missing or of the wrong kind");
    return node(args.items[i]);
  }
  std::vector<std::int64_t> integers(const Node& args, std::size_t i, const char* what) {
    std::vector<std::int64_t> out;
    spend(argument(args, i, Node::tuple, what).items.size());
    for (const std::uint32_t item : argument(args, i, Node::tuple, what).items) {
      if (node(item).kind != Node::integer) refuse(std::string("a tensor's ") + what + " is not made of integers");
      if (node(item).number < 0)
        refuse(std::string("a tensor's ") + what + " has the negative number " + std::to_string(node(item).number));
      out.push_back(node(item).number);
    }
    return out;
  }

  std::uint32_t rebuild(const Node& args, PickleGlobal::Call call) {
    constexpr std::int64_t kMost = std::int64_t{1} << 56;
    TensorRef t;
    t.storage = static_cast<std::uint32_t>(argument(args, 0, Node::storage, "storage").number);
    const StorageRef& s = out_.storages[t.storage];
    t.type = s.type, t.type_name = s.type_name, t.element_size = s.element_size;
    std::int64_t available = s.view_count;
    if (call == PickleGlobal::tensor_v3) {
      const PickleGlobal& type = global(argument(args, 6, Node::global, "element type"));
      if (type.call != PickleGlobal::element_type) refuse("a tensor's element type is missing");
      t.type = type.type, t.type_name = type.name, t.element_size = type.element_size;
      if (s.element_size != 1) refuse("a storage with an element type holds a tensor with another");
      available /= static_cast<std::int64_t>(t.element_size);
    }
    const std::int64_t offset = argument(args, 1, Node::integer, "storage offset").number;
    if (offset < 0 || offset > available) refuse("a tensor's storage offset " + std::to_string(offset) + " lies outside its storage");
    t.offset = s.view_offset + offset;
    t.shape = integers(args, 2, "shape");
    t.strides = integers(args, 3, "strides");
    if (t.shape.size() != t.strides.size())
      refuse("a tensor has " + std::to_string(t.shape.size()) + " sizes and " + std::to_string(t.strides.size()) + " strides");
    if (t.shape.size() > 64) refuse("a tensor has " + std::to_string(t.shape.size()) + " axes");
    t.count = 1;
    const bool none = std::find(t.shape.begin(), t.shape.end(), 0) != t.shape.end();
    t.span = none ? 0 : 1;
    t.contiguous = true;
    for (std::size_t i = t.shape.size(); i-- > 0;) {
      const std::int64_t n = t.shape[i], stride = t.strides[i];
      if (none) continue;
      if (n > 1 && stride != t.count) t.contiguous = false;
      if (n > kMost / t.count || (n > 1 && stride > (kMost - t.span) / (n - 1)))
        refuse("a tensor's shape overflows: " + shape_text(t.shape));
      t.count *= n;
      t.span += (n - 1) * stride;
    }
    if (none) t.count = 0;
    // Equal for honest files; a stride of 0 would make a terabyte out of one number.
    if (t.span > available - offset || t.count > available - offset)
      refuse("a tensor of shape " + shape_text(t.shape) + " needs " + std::to_string(std::max(t.span, t.count)) +
                 " elements, its storage has " + std::to_string(available - offset) + " behind the offset",
             "in Python: save t.contiguous() if it was expanded");
    out_.tensors.push_back(std::move(t));
    return make(Node::tensor, static_cast<std::int64_t>(out_.tensors.size() - 1));
  }
  static std::string shape_text(const std::vector<std::int64_t>& shape) {
    std::string s = "(";
    for (std::size_t i = 0; i < shape.size() && i < 10; ++i) s += (i ? "," : "") + std::to_string(shape[i]);
    return s + (shape.size() > 10 ? ",…)" : ")");
  }

  void reduce() {
    const std::uint32_t argument_id = pop(), callee_id = pop();
    if (node(callee_id).kind != Node::global) refuse("calls something that is not a known name");
    const PickleGlobal& g = global(node(callee_id));
    if (node(argument_id).kind != Node::tuple) refuse("calls " + std::string(g.name) + " without a tuple of arguments");
    push(call(g, argument_id));
  }
  std::uint32_t call(const PickleGlobal& g, std::uint32_t argument_id) {
    spend(node(argument_id).items.size());
    const std::vector<std::uint32_t> items = node(argument_id).items;  // a copy: making nodes moves them
    switch (g.call) {
      case PickleGlobal::ordered_dict: {
        std::vector<std::uint32_t> pairs;  // Python 2 wrote OrderedDict([[key, value], …])
        if (!items.empty()) {
          const Node& list = node(items[0]);
          if (list.kind != Node::list && list.kind != Node::tuple) refuse("OrderedDict of something that is not a list");
          spend(list.items.size());
          for (const std::uint32_t i : list.items) {
            const Node& pair = node(i);
            if ((pair.kind != Node::list && pair.kind != Node::tuple) || pair.items.size() != 2)
              refuse("OrderedDict of something that is not pairs");
            pairs.insert(pairs.end(), pair.items.begin(), pair.items.end());
          }
        }
        const std::uint32_t i = make(Node::dict);
        node(i).items = std::move(pairs);
        return i;
      }
      case PickleGlobal::tensor_v1:
      case PickleGlobal::tensor_v2:
      case PickleGlobal::tensor_v3: {
        Node args;
        args.items = items;
        return rebuild(args, g.call);
      }
      case PickleGlobal::first_argument:
        if (items.empty() || node(items[0]).kind != Node::tensor) refuse("a parameter without a tensor");
        return items[0];
      case PickleGlobal::from_type: {  // (rebuild function, type, its arguments, state)
        if (items.size() < 3 || node(items[0]).kind != Node::global || node(items[2]).kind != Node::tuple)
          refuse("_rebuild_from_type_v2 is malformed");
        const PickleGlobal& inner = global(node(items[0]));
        if (inner.call < PickleGlobal::tensor_v1 || inner.call > PickleGlobal::first_argument)
          refuse("_rebuild_from_type_v2 of something that is not a tensor");
        return call(inner, items[2]);
      }
      case PickleGlobal::size:
        if (items.size() != 1 || node(items[0]).kind != Node::tuple) refuse("torch.Size without a tuple");
        return items[0];
      case PickleGlobal::storage_type:
        refuse("a storage inside the pickle (torch before 2016)", "load and save it again with a current torch");
      case PickleGlobal::element_type:
      case PickleGlobal::opaque:
        break;
    }
    return make(Node::opaque);
  }

  void persistent_id() {
    const std::uint32_t id = pop();
    spend(node(id).items.size());
    const Node pid = node(id);  // a copy: making nodes moves them
    const auto text = [&](std::size_t i) {
      if (i >= pid.items.size() || node(pid.items[i]).kind != Node::text) refuse("a storage's name is malformed");
      return node(pid.items[i]).string;
    };
    const auto count_of = [&](const Node& n) {
      if (n.kind != Node::integer || n.number < 0 || n.number > (std::int64_t{1} << 56)) refuse("a storage's size is malformed");
      return n.number;
    };
    if (pid.kind != Node::tuple || pid.items.size() < 2) refuse("a persistent id is not a tuple");
    if (text(0) != "storage")
      refuse("holds a persistent \"" + std::string(text(0).substr(0, 60)) + "\", not a storage",
             "in Python: torch.save(model.state_dict(), \"weights.pth\")");
    if (pid.items.size() < 5 || node(pid.items[1]).kind != Node::global) refuse("a storage's description is malformed");
    const PickleGlobal& type = global(node(pid.items[1]));
    if (type.call != PickleGlobal::storage_type) refuse("a storage of type " + std::string(type.name));
    StorageRef s{text(2), text(3), type.type, type.name, type.element_size, count_of(node(pid.items[4])), 0, 0};
    s.view_count = s.count;
    if (pid.items.size() > 5 && node(pid.items[5]).kind == Node::tuple) {  // legacy: (view key, offset, size)
      const Node& view = node(pid.items[5]);
      if (view.items.size() != 3) refuse("a storage's view is malformed");
      s.view_offset = count_of(node(view.items[1]));
      s.view_count = count_of(node(view.items[2]));
      if (s.view_offset > s.count || s.view_count > s.count - s.view_offset) refuse("a storage's view reaches outside of it");
    }
    out_.storages.push_back(s);
    push(make(Node::storage, static_cast<std::int64_t>(out_.storages.size() - 1)));
  }

  void integer_bytes(std::string_view b) {  // two's complement, little endian
    if (b.size() > 8) return push(make(Node::big_integer, 0, b));
    std::uint64_t v = 0;
    for (std::size_t i = 0; i < b.size(); ++i) v |= std::uint64_t{static_cast<unsigned char>(b[i])} << (8 * i);
    if (!b.empty() && b.size() < 8 && (static_cast<unsigned char>(b.back()) & 0x80)) v |= ~std::uint64_t{0} << (8 * b.size());
    push(make(Node::integer, static_cast<std::int64_t>(v)));
  }

  void step(unsigned char op);

  static constexpr std::uint32_t kNothing = 0xFFFFFFFF;
  std::string_view bytes_;
  const Source& source_;
  std::uint64_t position_;
  std::size_t at_ = 0, op_at_ = 0, spent_ = 0;
  bool short_ = false, done_ = false;
  Pickle out_;
  std::vector<std::uint32_t> stack_, memo_;
  std::vector<std::size_t> marks_;
};

TOMOGRAD_INLINE void Unpickler::step(unsigned char op) {
  switch (op) {
    case 0x80: {  // PROTO
      const std::uint64_t version = number(1);
      if (!short_ && version > 5) refuse("protocol " + std::to_string(version) + " is unknown");
      return;
    }
    case 0x95:
      (void)number(8);
      return;  // FRAME
    case '.':  // STOP
      out_.root = pop();
      done_ = true;
      return;
    case '(':
      marks_.push_back(stack_.size());
      return;
    case '0':  // POP
      if (!marks_.empty() && marks_.back() == stack_.size())
        marks_.pop_back();
      else
        (void)pop();
      return;
    case '1':
      (void)pop_mark();
      return;
    case '2':
      push(top());
      return;
    // ---- constants
    case 'N':
      push(make(Node::none));
      return;
    case 0x88:
      push(make(Node::boolean, 1));
      return;
    case 0x89:
      push(make(Node::boolean, 0));
      return;
    case 'J':
      push(make(Node::integer, static_cast<std::int32_t>(number(4))));
      return;
    case 'K':
      push(make(Node::integer, static_cast<std::int64_t>(number(1))));
      return;
    case 'M':
      push(make(Node::integer, static_cast<std::int64_t>(number(2))));
      return;
    case 0x8a:
      integer_bytes(take(number(1)));
      return;
    case 0x8b:
      integer_bytes(take(number(4)));
      return;
    case 'G': {  // BINFLOAT, big endian
      std::uint64_t bits = 0;
      for (const char c : take(8)) bits = bits << 8 | static_cast<unsigned char>(c);
      const std::uint32_t i = make(Node::real);
      node(i).value = std::bit_cast<double>(bits);
      push(i);
      return;
    }
    case 'X':
    case 'T':
      push(make(Node::text, 0, take(number(4))));
      return;
    case 0x8c:
    case 'U':
      push(make(Node::text, 0, take(number(1))));
      return;
    case 0x8d:
      push(make(Node::text, 0, take(number(8))));
      return;
    case 'B':
      push(make(Node::bytes, 0, take(number(4))));
      return;
    case 'C':
      push(make(Node::bytes, 0, take(number(1))));
      return;
    case 0x8e:
    case 0x96:
      push(make(Node::bytes, 0, take(number(8))));
      return;
    // ---- containers
    case ')':
      push(make(Node::tuple));
      return;
    case ']':
      push(make(Node::list));
      return;
    case '}':
      push(make(Node::dict));
      return;
    case 0x8f:
      push(make(Node::set));
      return;
    case 't':
      push_items(Node::tuple, pop_mark());
      return;
    case 'l':
      push_items(Node::list, pop_mark());
      return;
    case 0x91:
      push_items(Node::set, pop_mark());
      return;
    case 'd': {
      auto items = pop_mark();
      if (items.size() % 2) refuse("a dictionary has a key without a value");
      push_items(Node::dict, std::move(items));
      return;
    }
    case 0x85:
    case 0x86:
    case 0x87: {
      std::vector<std::uint32_t> items(op - 0x84u);
      for (std::size_t i = items.size(); i-- > 0;) items[i] = pop();
      push_items(Node::tuple, std::move(items));
      return;
    }
    case 'a': {
      const std::uint32_t item = pop();
      append({&item, 1}, {Node::list});
      return;
    }
    case 'e':
      append(pop_mark(), {Node::list});
      return;
    case 0x90:
      append(pop_mark(), {Node::set});
      return;
    case 's': {
      const std::uint32_t value = pop(), key = pop(), pair[] = {key, value};
      append(pair, {Node::dict});
      return;
    }
    case 'u':
      append(pop_mark(), {Node::dict});
      return;
    // ---- memo
    case 'q':
      remember(number(1));
      return;
    case 'r':
      remember(number(4));
      return;
    case 0x94:
      remember(memo_.size());
      return;
    case 'h':
      recall(number(1));
      return;
    case 'j':
      recall(number(4));
      return;
    // ---- globals, calls
    case 'c': {
      const std::string_view module = line(), name = line();
      find_global(module, name);
      return;
    }
    case 0x93: {
      const std::uint32_t name = pop(), module = pop();
      if (node(name).kind != Node::text || node(module).kind != Node::text) refuse("a global name is not text");
      find_global(node(module).string, node(name).string);
      return;
    }
    case 'i': {  // INST: protocol 0 only, named and refused unless harmless
      const std::string_view module = line(), name = line();
      find_global(module, name);
      if (short_) return;
      (void)pop();
      (void)pop_mark();
      push(make(Node::opaque));
      return;
    }
    case 'R':
    case 0x81:
      reduce();
      return;
    case 0x92: {  // NEWOBJ_EX: class, arguments, keyword arguments
      (void)pop();
      reduce();
      return;
    }
    case 'b':
      (void)pop();
      (void)top();
      return;  // BUILD: attributes such as _metadata; nothing here has any
    case 'Q':
      persistent_id();
      return;
    // ---- protocol 0, enough to find what such a file would call
    case 'S':
    case 'V':
      push(make(Node::text, 0, line()));
      return;
    case 'I':
    case 'L':
    case 'F':
      (void)line();
      push(make(Node::opaque));
      return;
    case 'p':
    case 'g': {
      std::uint64_t index = 0;
      for (const char c : line()) {
        if (c < '0' || c > '9' || index > 0xFFFFFFFF) refuse("memo number is malformed");
        index = index * 10 + static_cast<std::uint64_t>(c - '0');
      }
      if (!short_) op == 'p' ? remember(index) : recall(index);
      return;
    }
    default: {
      const char* hex = "0123456789abcdef";
      refuse(std::string("opcode 0x") + hex[op >> 4] + hex[op & 15] + " is not part of a state dict");
    }
  }
}

TOMOGRAD_INLINE Pickle unpickle(std::string_view bytes, const Source& source, std::uint64_t position) {
  return Unpickler(bytes, source, position).run();
}
#endif

}  // namespace tomograd::inline TOMOGRAD_ABI::weights::detail
