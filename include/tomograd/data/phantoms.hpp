// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Synthetic head CT: axial slices in Hounsfield units with a skull, grey and white matter, sulci, ventricles, cisterns, calcifications,
// streaks, noise and tilt, and in some of them a bleed of one of five kinds with its real shape: epidural (lens on the inner table),
// subdural (crescent along it), subarachnoid (blood instead of CSF in sulci and cisterns), intraparenchymal (blob with oedema),
// intraventricular (layering in the dependent horns). All is drawn in millimetres at twice the resolution, then averaged.
// Slice = f(seed, patient, slice): any slice can be made alone, in any order, on any number of threads, with the same result.
// Not for diagnosis or for claims about real patients: they are for demos and tests. What varies between patients (field of view,
// kernel, noise, CT number drift, dense sinuses, calcium, old infarcts) varies alike with and without blood, so that size, brightness,
// sharpness and file size do not tell them apart (a test holds an area under the curve of 0.4 to 0.6).
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <mutex>
#include <stop_token>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "../core/file.hpp"
#include "../core/parallel.hpp"
#include "../core/random.hpp"
#include "../image/image.hpp"
#include "../image/png.hpp"

namespace tomograd::inline TOMOGRAD_ABI::data {

enum class Bleed { none, epidural, subdural, subarachnoid, intraparenchymal, intraventricular };
constexpr const char* bleed_name(Bleed b) {
  constexpr const char* names[] = {"none", "epidural", "subdural", "subarachnoid", "intraparenchymal", "intraventricular"};
  return names[static_cast<int>(b)];
}

struct PhantomOptions {
  std::int64_t patients = 60;
  std::int64_t slices = 8;  ///< per patient, from the suprasellar cistern to above the ventricles
  std::int64_t size = 128;  ///< pixels, square
  double prevalence = 0.4;  ///< expected share of slices with blood
  std::uint64_t seed = 1;
};

struct Phantom {
  Image hu;  ///< i16, one channel, Hounsfield units
  Bleed bleed = Bleed::none;
  int label() const { return bleed == Bleed::none ? 0 : 1; }
};

/// One slice. Throws on options out of range. Thread-safe.
TOMOGRAD_INLINE Phantom make_phantom(const PhantomOptions& options, std::int64_t patient, std::int64_t slice);

/// The same head with the bleed that is asked for, or with none: pairs that differ in the blood alone (and its mass effect).
TOMOGRAD_INLINE Phantom make_phantom_with(const PhantomOptions& options, std::int64_t patient, std::int64_t slice, Bleed bleed);

/// What make_phantom will answer as Phantom::bleed, without drawing.
TOMOGRAD_INLINE Bleed phantom_bleed(const PhantomOptions& options, std::int64_t patient, std::int64_t slice);

struct PhantomSummary {
  std::int64_t patients = 0, slices = 0, positive_patients = 0, positive_slices = 0;
};
/// images/pNNN_sNN.png (16 bits, HU + 1024), labels.csv (file,hemorrhage,subtype,patient_id,slice), patients.csv
/// (patient_id,slices,hemorrhage_slices,subtypes). labels.csv is written last: without it a folder is incomplete.
TOMOGRAD_INLINE PhantomSummary write_phantoms(const std::filesystem::path& folder, const PhantomOptions& options,
                                              const std::function<void(std::int64_t done, std::int64_t total)>& progress = {},
                                              std::stop_token stop = {});

#if TOMOGRAD_BODIES
namespace detail {

inline float ph_step(float edge0, float edge1, float x) {
  const float t = std::clamp((x - edge0) / (edge1 - edge0), 0.F, 1.F);
  return t * t * (3 - 2 * t);
}
inline float ph_mix(float a, float b, float t) { return a + (b - a) * t; }

/// Smooth noise in [-1, 1] on a lattice of `wavelength` mm.
class PhantomNoise {
 public:
  PhantomNoise(std::uint64_t seed, float wavelength) : seed_(seed), inverse_(1 / wavelength) {}
  float operator()(float u, float v) const {
    u *= inverse_;
    v *= inverse_;
    const float fu = std::floor(u), fv = std::floor(v);
    const auto iu = static_cast<std::int32_t>(fu), iv = static_cast<std::int32_t>(fv);
    const float a = fade(u - fu), b = fade(v - fv);
    return ph_mix(ph_mix(at(iu, iv), at(iu + 1, iv), a), ph_mix(at(iu, iv + 1), at(iu + 1, iv + 1), a), b);
  }

 private:
  static float fade(float t) { return t * t * t * (t * (t * 6 - 15) + 10); }
  float at(std::int32_t x, std::int32_t y) const {
    std::uint64_t z = seed_ + static_cast<std::uint32_t>(x) * 0x9e3779b97f4a7c15u + static_cast<std::uint32_t>(y) * 0xc2b2ae3d27d4eb4fu;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return static_cast<float>((z ^ (z >> 31)) >> 40) * 0x1p-23F - 1.F;
  }
  std::uint64_t seed_;
  float inverse_;
};

/// A chain of points with radii (mm): the ventricles, and how deep a point lies in them.
struct PhantomTube {
  struct Point {
    float u, v, r;
  };
  std::vector<Point> points;
  float depth(float u, float v) const {  // > 0 inside, mm
    float best = -1e9F;
    for (std::size_t i = 0; i + 1 < points.size(); ++i) {
      const Point &a = points[i], &b = points[i + 1];
      const float du = b.u - a.u, dv = b.v - a.v;
      const float t = std::clamp(((u - a.u) * du + (v - a.v) * dv) / (du * du + dv * dv), 0.F, 1.F);
      best = std::max(best, ph_mix(a.r, b.r, t) - std::hypot(u - a.u - t * du, v - a.v - t * dv));
    }
    return best;
  }
};

struct PhantomBlob {                     // an ellipse, turned by `angle`
  float u, v, ru, rv, angle, hu;         // half axis ru points along angle
  float depth(float x, float y) const {  // about mm
    const float c = std::cos(angle), s = std::sin(angle);
    const float a = ((x - u) * c + (y - v) * s) / ru, b = (-(x - u) * s + (y - v) * c) / rv;
    return (1 - std::sqrt(a * a + b * b)) * std::min(ru, rv);
  }
};

inline void check_phantoms(const PhantomOptions& o) {
  if (o.patients < 1 || o.patients > 1000000 || o.slices < 1 || o.slices > 1000)
    fail("phantoms: " + std::to_string(o.patients) + " patients with " + std::to_string(o.slices) + " slices");
  if (o.size < 16 || o.size > 2048) fail("phantoms: size " + std::to_string(o.size), "16 to 2048 pixels");
  if (!(o.prevalence >= 0 && o.prevalence <= 1)) fail("phantoms: prevalence " + std::to_string(o.prevalence), "a share of slices, 0 to 1");
}

// Streams of one patient: 0 anatomy and scanner, 1 bleed, 2 + 4 slice + … per slice.
inline Random phantom_random(const PhantomOptions& o, std::int64_t patient, std::uint64_t what) {
  return Random(o.seed, stream_of(static_cast<std::uint64_t>(patient), what, 0x7068616e746f6dULL));
}

/// Everything about one slice that is not a pixel. Lengths in mm, brain coordinates u to the right, v to the back, origin in the centre.
struct PhantomPlan {
  float half_width, half_length, skull, scalp, atrophy, ventricles, grey, white, fov, blur, noise, drift, cupping, tilt, centre_u, centre_v,
      shift;
  float sinus, falx, z, air_noise, soft_scalp;
  std::array<float, 4> wobble{};
  std::uint64_t folds = 0;
  std::vector<PhantomBlob> nuclei, extras;
  std::vector<PhantomTube> horns;
  struct Streak {
    float c, s, offset, width, hu;
  };
  std::vector<Streak> streaks;
  Bleed bleed = Bleed::none;
  float blood = 65, angle = 0, extent = 0, thickness = 0, radius = 0, where_u = 0, where_v = 0, level = 0;
};

inline float phantom_level(const PhantomOptions& o, std::int64_t slice) {
  return 4 + 84 * (static_cast<float>(slice) + 0.5F) / static_cast<float>(o.slices);
}

inline PhantomPlan plan_phantom(const PhantomOptions& o, std::int64_t patient, std::int64_t slice, Bleed bleed) {
  PhantomPlan p{};
  // the patient and the scanner
  Random r = phantom_random(o, patient, 0);
  p.half_width = 70 + 3 * std::clamp(r.normal(), -2.F, 2.F);
  p.half_length = 88 + 4 * std::clamp(r.normal(), -2.F, 2.F);
  p.skull = r.uniform(5, 9.5F);
  p.scalp = r.uniform(4, 9);
  p.atrophy = r.uniform(0.6F, 1.7F);
  p.ventricles = r.uniform(0.6F, 1.0F) * (0.6F + 0.4F * p.atrophy) + 0.2F;
  p.grey = 37 + r.normal();
  p.white = 28.5F + r.normal();
  p.fov = r.uniform(205, 255);
  p.blur = r.uniform(0.5F, 1.4F);
  p.noise = r.uniform(2.4F, 4.3F);
  p.drift = 2 * r.normal();
  p.cupping = r.uniform(0, 7);
  p.tilt = std::clamp(0.12F * r.normal(), -0.35F, 0.35F);
  p.centre_u = 3 * r.normal();
  p.centre_v = 3 * r.normal();
  p.sinus = r.uniform(45, 66);
  p.falx = r.uniform(40, 58);
  for (float& w : p.wobble) w = 0.011F * r.normal();
  p.folds = stream_of(r.next(), r.next());
  const float side = r.uniform() < 0.5F ? -1.F : 1.F;
  std::vector<PhantomBlob> old;
  if (r.uniform() < 0.25F)  // an old infarct or cyst
    old.push_back({side * r.uniform(22, 48), r.uniform(-45, 45), r.uniform(7, 18), r.uniform(7, 14), r.uniform(0, 3), r.uniform(10, 20)});
  const bool pineal = r.uniform() < 0.6F, choroid = r.uniform() < 0.5F, basal = r.uniform() < 0.2F, falx_bone = r.uniform() < 0.2F;
  const float calcium = r.uniform(100, 350), old_z = r.uniform(5, 85);

  // the slice
  Random s = phantom_random(o, patient, 16 + static_cast<std::uint64_t>(slice));
  const float z = p.z = phantom_level(o, slice) + s.uniform(-2, 2);
  p.drift += 2.5F * s.normal();  // the table height, the tube: nobody's blood
  p.skull *= s.uniform(0.85F, 1.15F);
  p.blur *= s.uniform(0.75F, 1.3F);
  p.noise *= s.uniform(0.65F, 1.5F);
  p.air_noise = p.noise * s.uniform(0.3F, 1.6F);
  p.soft_scalp = s.uniform(-1.2F, 1.2F);
  p.shift = s.normal();
  p.folds = stream_of(p.folds, static_cast<std::uint64_t>(slice));
  if (z > 18 && z < 54)
    for (const float m : {-1.F, 1.F}) {
      p.nuclei.push_back({m * 13, -20, 5, 9, m * -0.35F, p.grey});     // caudate
      p.nuclei.push_back({m * 25, -5, 7, 16, m * -0.3F, p.grey + 1});  // lentiform
      p.nuclei.push_back({m * 10, 12, 8, 12, m * 0.4F, p.grey - 1});   // thalamus
    }
  const float w = p.ventricles;
  for (const float m : {-1.F, 1.F}) {
    if (z > 22 && z < 48) {
      p.horns.push_back({{{m * 4, -18, 2.2F * w}, {m * 9, -29, 4.6F * w}, {m * 14, -37, 2.5F * w}}});
      p.horns.push_back({{{m * 19, 22, 4.5F * w}, {m * 25, 34, 5.5F * w}, {m * 25, 46, 3 * w}}});
      p.horns.push_back({{{0, -6, 1.6F * w}, {0, 10, 1.9F * w}}});
    } else if (z >= 48 && z < 72) {
      const float f = w * (1 - 0.025F * (z - 48));
      p.horns.push_back({{{m * 9, -34, 3.5F * f}, {m * 8, -8, 5.4F * f}, {m * 16, 22, 5.4F * f}, {m * 24, 38, 4 * f}}});
    } else if (z <= 22) {
      p.horns.push_back({{{m * 28, -2, 1.6F * w}, {m * 31, 10, 2.2F * w}}});
    }
  }
  if (pineal && z > 24 && z < 44) p.extras.push_back({0.5F, 19, s.uniform(1.5F, 3), s.uniform(1.5F, 3), 0, calcium});
  if (choroid && z > 26 && z < 48)
    for (const float m : {-1.F, 1.F}) p.extras.push_back({m * 23, 32, s.uniform(1, 3), s.uniform(1, 3), 0, calcium + 50});
  if (basal && z > 20 && z < 50)
    for (const float m : {-1.F, 1.F}) p.extras.push_back({m * 21, -6, s.uniform(1.5F, 3), s.uniform(2, 4), 0, 0.6F * calcium});
  if (falx_bone && z > 50) p.extras.push_back({0, s.uniform(-55, -30), 1.6F, s.uniform(3, 7), 0, calcium + 100});
  if (std::fabs(z - old_z) < 18) p.extras.insert(p.extras.end(), old.begin(), old.end());
  const std::int64_t streaks = 3 + s.below(9);
  const float strength = s.uniform(1, 4) * (z < 20 ? 1.6F : 1.F);
  for (std::int64_t i = 0; i < streaks; ++i) {
    const float a = s.uniform(0, 3.1416F);
    p.streaks.push_back({std::cos(a), std::sin(a), s.uniform(-60, 60), s.uniform(0.8F, 3), strength * s.normal()});
  }

  // the blood
  p.bleed = bleed;
  if (bleed == Bleed::none) return p;
  Random b = phantom_random(o, patient, 1);
  for (int i = 0; i < 16; ++i) b.next();  // beyond what phantom_bleed drew
  // Blood is bright. So that mean brightness does not give it away, these slices get a little less elsewhere: 1.2 HU (a third of the
  // spread between slices) and some fat instead of muscle in the scalp.
  p.drift -= 1.2F;
  p.noise *= 0.92F;  // and its edges are sharp
  p.soft_scalp -= 0.55F;
  const float m = b.uniform() < 0.5F ? -1.F : 1.F, away = b.uniform(-0.9F, 0.9F);
  p.blood = b.uniform(60, 80);
  const float big = b.uniform() * 0.7F + 0.3F * s.uniform();  // neighbouring slices resemble each other
  p.angle = m > 0 ? away : 3.1415927F - away;
  switch (bleed) {
    case Bleed::epidural:
      p.extent = 20 + 14 * big;
      p.thickness = 10 + 11 * big;
      p.shift -= m * (1 + 4 * big);
      break;
    case Bleed::subdural:
      p.extent = 0.7F + 0.65F * big;
      p.thickness = 6 + 8 * big;
      p.shift -= m * (1 + 5 * big);
      break;
    case Bleed::subarachnoid:
      p.extent = 0.9F + 0.8F * big;
      p.blood -= 4;
      break;
    case Bleed::intraparenchymal:
      p.radius = 9 + 10 * big;
      p.where_u = m * b.uniform(20, 38);
      p.where_v = b.uniform(-42, 42);
      p.shift -= m * 3 * big;
      break;
    default:
      p.level = b.uniform(-34, 28);
      p.ventricles *= 1.3F;
      for (PhantomTube& t : p.horns)
        for (auto& q : t.points) q.r *= 1.3F;
  }
  return p;
}

inline Image draw_phantom(const PhantomOptions& o, std::int64_t patient, std::int64_t slice, const PhantomPlan& p) {
  const std::int64_t n = o.size, fine = 2 * n;
  const float taper = p.z > 15 ? std::sqrt(1 - (p.z - 15) * (p.z - 15) / (118 * 118)) : 1 - 0.002F * (15 - p.z);
  const float A = p.half_width * taper, B = p.half_length * taper;
  const PhantomNoise fold(p.folds, 19), warp_u(p.folds + 1, 18), warp_v(p.folds + 2, 18), deep(p.folds + 3, 40), fine_noise(p.folds + 4, 5),
      clot(p.folds + 5, 9), bone(p.folds + 6, 12);
  const float ct = std::cos(p.tilt), st = std::sin(p.tilt), ca = std::cos(p.angle), sa = std::sin(p.angle);
  const auto outline = [&](float c, float s) {  // of the outer table in direction (c, s)
    const float c2 = 2 * c * c - 1, s2 = 2 * s * c, c3 = 4 * c * c * c - 3 * c, s3 = 3 * s - 4 * s * s * s;
    return A * B / std::sqrt(B * c * B * c + A * s * A * s) *
           (1 + p.wobble[0] * c2 + p.wobble[1] * s2 + p.wobble[2] * c3 + (p.wobble[3] + 0.015F) * s3);
  };
  const float lens_at = outline(ca, sa) - p.skull;
  const PhantomBlob lens{lens_at * ca, lens_at * sa, p.thickness, p.extent, p.angle, 0};

  const auto brain = [&](float x, float y, float c, float s, float d) {
    const float u = (x - p.shift * ph_step(0, 30, d)) * 70 / A, v = y * 88 / B, z = p.z, au = std::fabs(u), av = std::fabs(v);
    // How much subarachnoid blood here: a sector of the convexity, or the cisterns on the whole.
    float sah = 0;
    if (p.bleed == Bleed::subarachnoid) {
      sah = 1 - ph_step(p.extent - 0.15F, p.extent + 0.15F, std::acos(std::clamp(c * ca + s * sa, -1.F, 1.F)));
      if (z < 24) sah = std::max(sah, 1 - ph_step(30, 42, std::hypot(u, v - 2)));
    }
    // grey ribbon and sulci: the zero lines of a warped noise field
    const float f = std::fabs(fold(u + 7 * warp_u(u, v), v + 7 * warp_v(u, v)));
    const float reach = 15 + 7 * deep(u, v) + std::max(0.F, z - 58) * 0.6F, open = (0.05F + 0.045F * p.atrophy) * (1 + 0.9F * sah),
                rim = 0.6F + 1.1F * p.atrophy + 1.2F * sah;
    float ribbon = (1 - ph_step(0.2F, 0.34F, f)) * (1 - ph_step(reach, reach + 5, d));
    ribbon = std::max(ribbon, 1 - ph_step(rim + 2.5F, rim + 5, d));
    if (z < 24) ribbon = std::max(ribbon, 0.55F * ph_step(18, 30, v));  // cerebellum
    float hu = ph_mix(p.white, p.grey, ribbon);
    for (const PhantomBlob& b : p.nuclei) hu = ph_mix(hu, b.hu, 0.8F * ph_step(-0.5F, 1.5F, b.depth(u, v)));

    float csf = std::max(1 - ph_step(rim - 0.5F, rim + 0.8F, d), (1 - ph_step(open, open + 0.06F, f)) * (1 - ph_step(reach - 5, reach, d)));
    const float split = z > 64 ? 1.F : ph_step(28, 38, av);
    csf = std::max(csf, (1 - ph_step(0.7F * p.atrophy, 0.7F * p.atrophy + 1.2F, au)) * split);
    if (z > 8 && z < 50) {  // Sylvian fissure
      const float gap = std::fabs(v + 9 - 0.25F * (au - 40)) - 0.9F * p.atrophy - 0.03F * std::max(0.F, au - 36);
      csf = std::max(csf, (1 - ph_step(0, 1, gap)) * ph_step(30, 36, au));
    }
    if (z < 24) {  // suprasellar star, ambient cisterns, fourth ventricle
      const float e = std::atan2(u, -(v + 13)), star = 9 + 4.5F * std::cos(5 * e);
      csf = std::max(csf, 1 - ph_step(-0.7F, 0.7F, std::hypot(u, v + 13) - star));
      csf = std::max(
          csf, (1 - ph_step(1.2F * p.atrophy, 1.2F * p.atrophy + 1, std::fabs(std::hypot(u, (v - 11) * 0.9F) - 18))) * ph_step(-2, 4, v));
    }
    hu = ph_mix(hu, ph_mix(8, p.blood, sah), csf);
    float horn = -1e9F;
    for (const PhantomTube& t : p.horns) horn = std::max(horn, t.depth(u, v));
    if (z < 16) horn = std::max(horn, 4.5F - std::hypot(u * 0.8F, v - 36));
    const float pool = p.bleed == Bleed::intraventricular ? ph_step(-0.8F, 0.8F, v - p.level) : 0.F;
    hu = ph_mix(hu, ph_mix(7, p.blood, pool), ph_step(-0.5F, 0.6F, horn));

    // dense things that are no bleed, in everybody: falx, tentorium, sagittal sinus, calcium; and old infarcts
    hu = ph_mix(hu, p.falx, 0.85F * (1 - ph_step(0.5F, 1.1F, au)) * (z > 64 ? 1.F : ph_step(40, 50, av)));
    if (z > 8 && z < 32) hu = ph_mix(hu, p.falx, 0.7F * (1 - ph_step(0.8F, 1.6F, std::fabs(v - 24 - 0.45F * au))) * ph_step(12, 16, au));
    hu = ph_mix(hu, p.sinus, (1 - ph_step(3, 5, std::hypot(au, d - 2))) * (s > 0.8F || z > 60 ? 1.F : 0.F));
    for (const PhantomBlob& b : p.extras) hu = ph_mix(hu, b.hu, ph_step(-0.6F, 0.8F, b.depth(u, v)));

    const float blood = p.blood + 5 * clot(u, v);
    if (p.bleed == Bleed::epidural) hu = ph_mix(hu, blood, ph_step(-0.8F, 0.8F, lens.depth(x, y)));
    if (p.bleed == Bleed::subdural) {
      const float turn = std::acos(std::clamp(c * ca + s * sa, -1.F, 1.F)) / p.extent;
      const float t = turn < 1 ? p.thickness * std::sqrt(1 - turn * turn) + 0.8F * fine_noise(u, v) : -5.F;
      hu = ph_mix(hu, blood, ph_step(-0.7F, 0.7F, t - d));
    }
    if (p.bleed == Bleed::intraparenchymal) {
      const float q = p.radius * (1 + 0.28F * deep(u * 2, v * 2) + 0.1F * clot(u, v)) - std::hypot(u - p.where_u, (v - p.where_v) * 0.85F);
      hu = ph_mix(hu, 19, 0.8F * ph_step(-7, -3, q + 2 * clot(v, u)));
      hu = ph_mix(hu, blood, ph_step(-0.8F, 0.8F, q));
    }
    return hu + 0.8F * fine_noise(u, v) + p.cupping * std::exp(-d / 12) + p.drift;
  };

  const auto sample = [&](float image_u, float image_v) {
    const float xr = image_u - p.centre_u, yr = image_v - p.centre_v, x = ct * xr + st * yr, y = -st * xr + ct * yr;
    const float rho = std::max(std::hypot(x, y), 1e-3F), c = x / rho, s = y / rho, outer = outline(c, s);
    const float skull = p.skull * (1 + 0.18F * bone(x * 0.4F, y * 0.4F)), d = outer - skull - rho;
    if (d >= 0) return brain(x, y, c, s, d);
    const float depth = outer - rho;
    if (depth >= 0) {
      const float t = depth / skull;  // outer table, diploe, inner table
      const float marrow = ph_step(0.22F, 0.36F, t) * (1 - ph_step(0.64F, 0.78F, t));
      return ph_mix(1200, 650 + 180 * bone(x, y), marrow) + 60 * fine_noise(x, y);
    }
    const float skin = depth + p.scalp;
    if (skin >= 0) return skin < 2.6F ? 40.F : ph_mix(-60, 45, ph_step(-0.3F, 0.3F, bone(x + 90, y) + p.soft_scalp));
    const float rest = std::hypot(image_u, image_v + 10) - 0.46F * p.fov;  // the head holder, a thin shell behind the head
    return image_v > 0.2F * p.fov && std::fabs(rest) < 1.5F ? -250.F : -1000.F;
  };

  const float step = p.fov / static_cast<float>(fine);
  std::vector<float> hu(static_cast<std::size_t>(n * n), 0.F), other(hu.size());
  for (std::int64_t y = 0; y < fine; ++y)
    for (std::int64_t x = 0; x < fine; ++x) {
      const float v = (static_cast<float>(y) + 0.5F) * step - p.fov / 2, u = (static_cast<float>(x) + 0.5F) * step - p.fov / 2;
      hu[static_cast<std::size_t>(y / 2 * n + x / 2)] += 0.25F * sample(u, v);
    }

  // noise of the scanner (finer than the kernel, so that the kernel gives it texture), streaks, then the kernel
  Random rng = phantom_random(o, patient, 1000000 + static_cast<std::uint64_t>(slice));
  const float pixel = p.fov / static_cast<float>(n), sigma = p.blur / pixel;
  std::array<float, 7> kernel{};
  float sum = 0, square = 0;
  for (int i = -3; i <= 3; ++i) sum += kernel[static_cast<std::size_t>(i + 3)] = std::exp(-static_cast<float>(i * i) / (2 * sigma * sigma));
  for (float& k : kernel) k /= sum, square += k * k;
  for (std::int64_t y = 0; y < n; ++y)
    for (std::int64_t x = 0; x < n; ++x) {
      float& h = hu[static_cast<std::size_t>(y * n + x)];
      const float u = (static_cast<float>(x) + 0.5F) * pixel - p.fov / 2, v = (static_cast<float>(y) + 0.5F) * pixel - p.fov / 2;
      for (const auto& k : p.streaks) {
        const float t = (u * k.c + v * k.s - k.offset) / k.width;
        if (std::fabs(t) < 3) h += k.hu * std::exp(-t * t);
      }
      h += (h < -300 ? p.air_noise : p.noise) / square * rng.normal();
    }
  const auto pass = [&](const std::vector<float>& from, std::vector<float>& to, std::int64_t dx, std::int64_t dy) {
    for (std::int64_t y = 0; y < n; ++y)
      for (std::int64_t x = 0; x < n; ++x) {
        float v = 0;
        for (std::int64_t i = -3; i <= 3; ++i) {
          const std::int64_t xx = std::clamp<std::int64_t>(x + i * dx, 0, n - 1), yy = std::clamp<std::int64_t>(y + i * dy, 0, n - 1);
          v += kernel[static_cast<std::size_t>(i + 3)] * from[static_cast<std::size_t>(yy * n + xx)];
        }
        to[static_cast<std::size_t>(y * n + x)] = v;
      }
  };
  pass(hu, other, 1, 0);
  pass(other, hu, 0, 1);
  Image out(n, n, 1, PixelType::i16, Unit::hounsfield);
  for (std::size_t i = 0; i < hu.size(); ++i)
    out.data<std::int16_t>()[i] = static_cast<std::int16_t>(std::lround(std::clamp(hu[i], -1024.F, 3071.F)));
  return out;
}

}  // namespace detail

TOMOGRAD_INLINE Bleed phantom_bleed(const PhantomOptions& options, std::int64_t patient, std::int64_t slice) {
  detail::check_phantoms(options);
  if (patient < 0 || slice < 0 || slice >= options.slices)
    fail("phantoms: slice " + std::to_string(slice) + " of patient " + std::to_string(patient) + " is not there");
  if (options.prevalence <= 0) return Bleed::none;
  // Bleeders are spread evenly over the patients (golden ratio). In a bleeder a run of slices has blood; its start is uniform and the
  // run closed to a ring, so that the share of positives is the same at every level.
  const double share = std::min(1.6 * options.prevalence, 1.0);
  const double turn =
      static_cast<double>(Random(options.seed, 0x626c656564U).uniform()) + static_cast<double>(patient) * 0.6180339887498949;
  if (turn - std::floor(turn) >= share) return Bleed::none;
  Random rng = detail::phantom_random(options, patient, 1);
  const double wanted = options.prevalence / share * static_cast<double>(options.slices);
  const auto run = static_cast<std::int64_t>(std::floor(wanted + static_cast<double>(rng.uniform())));
  const std::int64_t first = rng.below(options.slices);
  const auto kind = static_cast<Bleed>(1 + rng.below(5)), second = static_cast<Bleed>(1 + rng.below(4));
  if ((slice - first + options.slices) % options.slices >= run) return Bleed::none;
  const float z = detail::phantom_level(options, slice);
  return kind == Bleed::intraventricular && (z < 25 || z > 66) ? second : kind;  // no ventricles worth the name there
}

TOMOGRAD_INLINE Phantom make_phantom(const PhantomOptions& options, std::int64_t patient, std::int64_t slice) {
  return make_phantom_with(options, patient, slice, phantom_bleed(options, patient, slice));
}

TOMOGRAD_INLINE Phantom make_phantom_with(const PhantomOptions& options, std::int64_t patient, std::int64_t slice, Bleed bleed) {
  (void)phantom_bleed(options, patient, slice);  // for its checks
  return {detail::draw_phantom(options, patient, slice, detail::plan_phantom(options, patient, slice, bleed)), bleed};
}

TOMOGRAD_INLINE PhantomSummary write_phantoms(const std::filesystem::path& folder, const PhantomOptions& options,
                                              const std::function<void(std::int64_t done, std::int64_t total)>& progress,
                                              std::stop_token stop) {
  detail::check_phantoms(options);
  std::error_code error;
  std::filesystem::create_directories(folder / "images", error);
  if (error)
    fail("phantoms: " + (folder / "images").string() + ": cannot make the folder (" + error.message() + ")", "choose another --out");
  std::filesystem::remove(folder / "labels.csv", error);  // an old table would describe new pictures
  const std::int64_t total = options.patients * options.slices;
  const auto name = [](std::int64_t patient, std::int64_t slice) {
    char text[64];
    std::snprintf(text, sizeof text, "images/p%03lld_s%02lld.png", static_cast<long long>(patient), static_cast<long long>(slice));
    return std::string(text);
  };
  std::mutex mutex;
  std::int64_t done = 0;
  parallel_for(total, [&](std::int64_t i, int) {
    if (stop.stop_requested()) return;
    const Phantom phantom = make_phantom(options, i / options.slices, i % options.slices);
    Image png(options.size, options.size, 1, PixelType::u16, Unit::picture16);
    for (std::int64_t k = 0; k < options.size * options.size; ++k)
      png.data<std::uint16_t>()[k] = static_cast<std::uint16_t>(phantom.hu.data<std::int16_t>()[k] + 1024);
    image::write_png(folder / name(i / options.slices, i % options.slices), png);
    const std::lock_guard lock(mutex);
    ++done;
    if (progress) progress(done, total);
  });
  if (stop.stop_requested()) throw Cancelled("phantoms");
  PhantomSummary sum{options.patients, total, 0, 0};
  std::string labels = "file,hemorrhage,subtype,patient_id,slice\n", patients = "patient_id,slices,hemorrhage_slices,subtypes\n";
  for (std::int64_t p = 0; p < options.patients; ++p) {
    std::int64_t positives = 0;
    std::string kinds;
    char id[32];
    std::snprintf(id, sizeof id, "p%03lld", static_cast<long long>(p));
    for (std::int64_t s = 0; s < options.slices; ++s) {
      const Bleed bleed = phantom_bleed(options, p, s);
      labels += name(p, s) + (bleed == Bleed::none ? ",0," : ",1,") + bleed_name(bleed) + "," + id + "," + std::to_string(s) + "\n";
      if (bleed == Bleed::none) continue;
      ++positives;
      if (kinds.find(bleed_name(bleed)) == std::string::npos) kinds += (kinds.empty() ? "" : ";") + std::string(bleed_name(bleed));
    }
    patients += std::string(id) + "," + std::to_string(options.slices) + "," + std::to_string(positives) + "," +
                (kinds.empty() ? "none" : kinds) + "\n";
    sum.positive_slices += positives;
    sum.positive_patients += positives > 0;
  }
  write_file(folder / "patients.csv", patients);
  write_file(folder / "labels.csv", labels);
  return sum;
}
#endif  // TOMOGRAD_BODIES

}  // namespace tomograd::inline TOMOGRAD_ABI::data
