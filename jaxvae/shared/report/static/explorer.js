"use strict";
// The latent explorer of the page's runs. An MLP's decoder runs here, from its weights in the page; for another decoder
// the page has rendered frames. jaxvae/shared/report/explorer.py writes the data.
(() => {
  const SHOWN = 10; // sliders outside the disclosure
  const [LEFT, BELOW, EDGE] = [44, 36, 8]; // CSS pixels of the map's margins, which have the axes' numbers and names
  const NEAR = 24; // CSS pixels at most from a click to the point it selects
  const ACTIVATIONS = {
    relu: (x) => (x > 0 ? x : 0),
    tanh: Math.tanh,
    "leaky-relu": (x, slope) => (x > 0 ? x : slope * x),
    "leaky-relu-0.2": (x) => (x > 0 ? x : 0.2 * x),
    softplus: (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x))),
    elu: (x) => (x > 0 ? x : Math.expm1(x)),
  };
  const OUTPUTS = {
    sigmoid: (x) => 1 / (1 + Math.exp(-x)),
    tanh: Math.tanh,
    identity: (x) => x,
    // A Taylor series where the difference would cancel.
    "continuous-bernoulli": (x) =>
      Math.abs(x) < 0.02 ? 0.5 + x / 12 - x ** 3 / 720 : 1 / (1 - Math.exp(-x)) - 1 / x,
  };

  // Little-endian numbers, like the typed arrays of every machine with a browser.
  function numbers(base64, dtype) {
    const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    return dtype === "float64" ? new Float64Array(bytes.buffer) : new Float32Array(bytes.buffer);
  }

  // `weight` times `x`, plus the bias. Inputs that a ReLU set to zero are skipped.
  function multiply({ weight, bias }, x) {
    const inputs = x.length;
    const used = [];
    for (let i = 0; i < inputs; i++) if (x[i] !== 0) used.push(i);
    const y = new Float64Array(bias.length);
    for (let j = 0, row = 0; j < y.length; j++, row += inputs) {
      let sum = bias[j];
      for (let k = 0; k < used.length; k++) sum += weight[row + used[k]] * x[used[k]];
      y[j] = sum;
    }
    return y;
  }

  // A function of latents and a class that returns the image's pixels, in [0, 1] where the output is bounded to it.
  function decoderOf(run) {
    const { dtype, activation, slope, output, signed } = run.decoder;
    const activate = (x) => ACTIVATIONS[activation](x, slope);
    const layers = run.decoder.layers.map((layer) => ({
      weight: numbers(layer.weight, dtype),
      bias: numbers(layer.bias, dtype),
    }));
    return (z, label) => {
      let x = new Float64Array(run.latent + run.classes);
      x.set(z);
      if (run.classes) x[run.latent + label] = 1;
      layers.forEach((layer, i) => {
        x = multiply(layer, x).map(i < layers.length - 1 ? activate : OUTPUTS[output]);
      });
      return signed ? x.map((mean) => (mean + 1) / 2) : x;
    };
  }

  // Standard normals, the same in every browser: mulberry32 and the Box-Muller transform.
  function normals(seed) {
    let state = seed >>> 0;
    const uniform = () => {
      state = (state + 0x6d2b79f5) >>> 0;
      let t = Math.imul(state ^ (state >>> 15), state | 1);
      t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
      return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
    };
    return () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  }

  function loaded(source) {
    const image = new Image();
    image.src = source;
    return image.decode().then(() => image);
  }

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  class Explorer {
    constructor(run, number, place) {
      this.run = run;
      this.number = number;
      this.decode = run.decoder ? decoderOf(run) : null;
      this.normal = normals(run.seed);
      this.drawn = 0; // number of rendered samples that were shown
      if (run.frames?.codes) this.draws = numbers(run.frames.codes.data, run.frames.codes.dtype);
      this.z = Float64Array.from(run.centre);
      this.label = 0;
      this.point = null; // the selected test image
      this.frame = null; // for rendered frames: the sheet and the position in it
      const points = run.points;
      this.codes = numbers(points.codes.data, points.codes.dtype);
      this.places = numbers(points.places.data, points.places.dtype);
      this.kinds = [...new Set(points.labels)].sort((a, b) => a - b);
      place.replaceChildren(document.getElementById("explorer").content.cloneNode(true));
      this.part = (selector) => place.querySelector(selector);
      for (const canvas of place.querySelectorAll(".pictures canvas")) {
        [canvas.height, canvas.width] = run.image;
        canvas.style.aspectRatio = `${run.image[1]} / ${run.image[0]}`;
      }
      this.makeSliders();
      this.makeActions();
      this.makeMap();
    }

    async load() {
      const { points, frames } = this.run;
      this.originals = await loaded(points.sheet);
      if (points.again) this.again = await loaded(points.again);
      if (frames) {
        this.sheets = await Promise.all(frames.sheets.map(loaded));
        if (frames.drawn) this.samples = await loaded(frames.drawn);
      }
      this.loaded = true;
      this.choose(0);
    }

    makeSliders() {
      const { run } = this;
      const axes = run.order;
      const most = Math.max(...run.activity);
      const [first, rest] = ["div.sliders", ".more .sliders"].map((selector) => this.part(selector));
      this.sliders = axes.map((latent, rank) => {
        const id = `run-${this.number}-latent-${latent}`;
        const activity = run.activity[latent];
        const words = activity < 0.0005 ? "0" : activity.toPrecision(3);
        const input = element("input", { type: "range", id });
        const [low, high] = [run.low[latent], run.high[latent]];
        Object.assign(input, run.frames ? { min: 0, max: run.frames.stops[rank] - 1, step: 1 } : { min: low, max: high });
        if (!run.frames) input.step = run.prior ? 0.05 : (high - low) / 100 || 1;
        input.disabled = low === high;
        const share = element("i");
        share.style.width = `${most > 0 ? (100 * activity) / most : 0}%`;
        const unit = element("small", {}, `${words} ${run.unit}`);
        const bar = element("span", { class: "share", "aria-hidden": "true" }, share);
        const name = element("label", { for: id }, `latent ${latent + 1}`, unit, bar);
        const output = element("span", { class: "value", "aria-hidden": "true" }); // the slider itself announces it
        (rank < SHOWN ? first : rest).append(element("div", { class: "slider" }, name, input, output));
        input.addEventListener("input", () => this.move(rank, latent, Number(input.value)));
        return { latent, rank, input, output };
      });
      if (axes.length > SHOWN) {
        this.part(".more").hidden = false;
        this.part(".more summary").textContent = `${axes.length - SHOWN} less active latents`;
      }
      if (run.frames) {
        const note = this.part(".note");
        const [least, many] = [Math.min(...run.frames.stops), Math.max(...run.frames.stops)];
        note.hidden = false;
        note.textContent =
          `This decoder is convolutional or too large to run in the page. It shows rendered images instead: ` +
          `${least === many ? many : `${least} to ${many}`} frames along each of the ${run.latent} latents, with the ` +
          "other latents at the centre; samples from the prior; and the test images' reconstructions, for which a " +
          "slider stands at its nearest frame." +
          (run.frames.scale > 1 ? ` The frames are reduced to 1/${run.frames.scale} of the model's size.` : "");
      }
    }

    makeActions() {
      const { run } = this;
      const draw = this.part(".draw");
      draw.hidden = !run.prior;
      draw.addEventListener("click", () => this.draw());
      this.part(".reset").addEventListener("click", () => this.reset());
      this.part(".class").hidden = !run.classes;
      const select = this.part(".class select");
      for (let i = 0; i < run.classes; i++) select.append(element("option", { value: i }, run.names[i]));
      select.addEventListener("change", () => {
        this.label = Number(select.value);
        if (this.frame?.sheet === "again") {
          // A reconstruction has its image's own class.
          this.frame = this.middle();
          this.z.set(run.centre);
          this.point = null;
        }
        this.changed(`Class ${this.run.names[this.label]}.`);
      });
    }

    makeMap() {
      const { run } = this;
      const canvas = (this.map = this.part(".map canvas"));
      const n = run.points.labels.length;
      canvas.setAttribute(
        "aria-label",
        `Map of the latents of ${n} test images. The arrow keys move from one image to the next and decode it.`,
      );
      const directions = run.latent > 2 ? "their first two principal components" : "the latents themselves";
      this.part(".map figcaption").textContent =
        `Latents of ${n.toLocaleString("en")} test images: ${directions}` +
        (run.latent === 1 ? ", with the label as the vertical axis" : "") +
        ". Click a point or use the arrow keys to decode it; the cross marks the latent of the decoded image" +
        (this.kinds.length > 1 ? ", a diamond the mean of a class." : ".");
      if (this.kinds.length > 1) {
        this.part(".legend").append(
          ...this.kinds.map((kind) => {
            const dot = element("i");
            dot.style.background = this.run.colours[kind];
            return element("li", {}, dot, this.run.names[kind]);
          }),
        );
      }
      const bounds = [0, 1].map((axis) => {
        const values = this.places.filter((_, i) => i % 2 === axis);
        const [low, high] = [Math.min(...values), Math.max(...values)];
        const pad = 0.06 * (high - low) || 1;
        return [low - pad, high + pad];
      });
      this.bounds = bounds;
      this.scale = (x, y) => [
        LEFT + ((x - bounds[0][0]) / (bounds[0][1] - bounds[0][0])) * (canvas.clientWidth - LEFT - EDGE),
        EDGE + ((bounds[1][1] - y) / (bounds[1][1] - bounds[1][0])) * (canvas.clientHeight - EDGE - BELOW),
      ];
      canvas.addEventListener("click", (event) => this.click(event.offsetX, event.offsetY));
      canvas.addEventListener("keydown", (event) => {
        const direction = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
        if (!direction) return;
        event.preventDefault(); // the page would scroll
        this.walk(...direction);
      });
      const redraw = () => {
        this.background = null;
        this.changed();
      };
      new ResizeObserver(redraw).observe(canvas);
      matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
    }

    // The position of a point on the map, CSS pixels.
    placed(point) {
      return this.scale(this.places[2 * point], this.places[2 * point + 1]);
    }

    move(rank, latent, value) {
      const { run } = this;
      if (run.frames) {
        this.z.set(run.centre);
        this.z[latent] = this.at(rank, latent, value);
        this.frame = { sheet: rank, stop: value };
        this.point = null;
      } else {
        this.z[latent] = value;
      }
      this.changed(this.point === null ? "" : `Moved from test image ${this.point + 1}.`);
    }

    // The value of a latent at a stop of its frames, which are those of its rank; the centre is in the middle.
    at(rank, latent, stop) {
      const [low, centre, high] = [this.run.low[latent], this.run.centre[latent], this.run.high[latent]];
      const half = (this.run.frames.stops[rank] - 1) / 2;
      return stop <= half ? low + ((centre - low) * stop) / half : centre + ((high - centre) * (stop - half)) / half;
    }

    // The stop nearest to a value.
    stop(rank, latent, value) {
      const length = this.run.frames.stops[rank];
      const stops = Array.from({ length }, (_, stop) => Math.abs(this.at(rank, latent, stop) - value));
      return stops.indexOf(Math.min(...stops));
    }

    middle() {
      return { sheet: 0, stop: (this.run.frames.stops[0] - 1) / 2 };
    }

    draw() {
      const { frames, latent } = this.run;
      this.point = null;
      if (frames) {
        this.frame = { sheet: "drawn", stop: this.drawn++ % frames.draws };
        this.z.set(this.draws.subarray(this.frame.stop * latent, (this.frame.stop + 1) * latent));
      } else {
        for (let i = 0; i < latent; i++) this.z[i] = this.normal();
      }
      this.changed("Drawn from the prior.");
    }

    reset() {
      this.point = null;
      this.z.set(this.run.centre);
      if (this.run.frames) this.frame = this.middle();
      this.changed(this.run.prior ? "The prior's mean." : "The mean of the test images' codes.");
    }

    choose(point) {
      const { points, latent, classes, frames } = this.run;
      this.point = point;
      this.z.set(this.codes.subarray(point * latent, (point + 1) * latent));
      if (classes) this.label = points.labels[point];
      if (frames) this.frame = { sheet: "again", stop: point };
      this.changed(`Test image ${point + 1}${this.labelled(point)}.`);
    }

    labelled(point) {
      return this.kinds.length > 1 ? `, label ${this.run.names[this.run.points.labels[point]]}` : "";
    }

    click(x, y) {
      let [nearest, least] = [null, NEAR ** 2];
      for (let point = 0; point < this.run.points.labels.length; point++) {
        const [a, b] = this.placed(point);
        const distance = (a - x) ** 2 + (b - y) ** 2;
        if (distance < least) [nearest, least] = [point, distance];
      }
      if (nearest !== null) this.choose(nearest);
    }

    // The nearest point in a direction, within 45 degrees of it.
    walk(right, down) {
      const [x, y] = this.placed(this.point ?? this.last ?? 0);
      let [nearest, least] = [null, Infinity];
      for (let point = 0; point < this.run.points.labels.length; point++) {
        const [a, b] = this.placed(point);
        const ahead = (a - x) * right + (b - y) * down;
        const aside = Math.abs((a - x) * down) + Math.abs((b - y) * right);
        if (ahead > 0 && aside <= ahead && ahead + aside < least) [nearest, least] = [point, ahead + aside];
      }
      if (nearest !== null) this.choose(nearest);
    }

    changed(message) {
      if (message !== undefined) this.part(".status").textContent = message;
      if (this.point !== null) this.last = this.point;
      this.pending ??= requestAnimationFrame(() => {
        this.pending = null;
        this.show();
      });
    }

    show() {
      if (!this.loaded) return;
      const { run } = this;
      for (const { latent, rank, input, output } of this.sliders) {
        const value = this.z[latent];
        input.value = run.frames ? this.stop(rank, latent, value) : value;
        output.textContent = value.toFixed(2).replace(/^-(0\.00)$/, "$1");
        input.setAttribute("aria-valuetext", output.textContent);
      }
      this.part(".class select").value = String(this.label);
      this.showDecoded();
      this.showOriginal();
      this.showMap();
    }

    showDecoded() {
      const { run, frame } = this;
      const context = this.part(".decoded canvas").getContext("2d");
      if (!this.decode) {
        const row = run.classes ? this.label : 0;
        if (frame.sheet === "again") this.cut(context, this.again, run.points.columns, frame.stop);
        else if (frame.sheet === "drawn") this.cut(context, this.samples, run.frames.draws, row * run.frames.draws + frame.stop);
        else {
          const stops = run.frames.stops[frame.sheet];
          this.cut(context, this.sheets[frame.sheet], stops, row * stops + frame.stop, run.frames.scale);
        }
        return;
      }
      const [height, width, channels] = run.image;
      const pixels = this.decode(this.z, this.label);
      const picture = context.createImageData(width, height);
      for (let i = 0; i < width * height; i++) {
        for (let c = 0; c < 3; c++) {
          picture.data[4 * i + c] = Math.round(255 * pixels[i * channels + (channels === 3 ? c : 0)]); // clamps
        }
        picture.data[4 * i + 3] = 255;
      }
      context.putImageData(picture, 0, 0);
    }

    // Draws the image with a number from a sheet with `columns` columns, whose images are reduced by `scale`.
    cut(context, sheet, columns, number, scale = 1) {
      const [height, width] = this.run.image;
      const [rows, wide] = scale > Math.min(height, width) ? [height, width] : [height, width].map((n) => Math.floor(n / scale));
      const [left, top] = [(number % columns) * wide, Math.floor(number / columns) * rows];
      context.imageSmoothingEnabled = false;
      context.drawImage(sheet, left, top, wide, rows, 0, 0, width, height);
    }

    showOriginal() {
      const [figure, canvas] = [this.part(".original"), this.part(".original canvas")];
      const context = canvas.getContext("2d");
      figure.classList.toggle("none", this.point === null);
      if (this.point === null) {
        context.clearRect(0, 0, canvas.width, canvas.height);
        this.part(".original figcaption").textContent = "no test image";
        return;
      }
      this.cut(context, this.originals, this.run.points.columns, this.point);
      this.part(".original figcaption").textContent = `test image ${this.point + 1}${this.labelled(this.point)}`;
    }

    showMap() {
      const canvas = this.map;
      const [width, height, ratio] = [canvas.clientWidth, canvas.clientHeight, window.devicePixelRatio || 1];
      if (!width) return;
      if (!this.background) this.background = this.paint(width, height, ratio);
      [canvas.width, canvas.height] = [this.background.width, this.background.height];
      const context = canvas.getContext("2d");
      context.drawImage(this.background, 0, 0);
      context.scale(ratio, ratio);
      const text = getComputedStyle(canvas).color;
      if (this.point !== null) this.ring(context, this.placed(this.point), text);
      if (this.frame?.sheet !== "again") {
        const [x, y] = this.here();
        context.strokeStyle = text;
        context.lineWidth = 2;
        context.beginPath();
        for (const [a, b] of [[7, 0], [-7, 0], [0, 7], [0, -7]]) {
          context.moveTo(x + a / 3.5, y + b / 3.5);
          context.lineTo(x + 1.6 * a, y + 1.6 * b);
        }
        context.stroke();
      }
    }

    // The position of the decoded image on the map, clamped to its edges.
    here() {
      const { middle, directions, labels } = this.run.points;
      const at = directions.map((direction) => direction.reduce((sum, part, i) => sum + part * (this.z[i] - middle[i]), 0));
      if (this.run.latent === 1) at[1] = this.places[2 * (this.point ?? this.last ?? 0) + 1];
      const [x, y] = this.scale(...at);
      const [right, bottom] = [this.map.clientWidth - EDGE, this.map.clientHeight - BELOW];
      return [Math.min(Math.max(x, LEFT), right), Math.min(Math.max(y, EDGE), bottom)];
    }

    ring(context, [x, y], text) {
      context.strokeStyle = text;
      context.lineWidth = 2;
      context.beginPath();
      context.arc(x, y, 6, 0, 2 * Math.PI);
      context.stroke();
    }

    // The axes of the map, with their numbers and names, up to eight numbers on each.
    paintAxes(context, width, height) {
      const style = getComputedStyle(this.map);
      const [soft, line] = ["--soft", "--line"].map((name) => style.getPropertyValue(name));
      const { axes } = this.run.points;
      Object.assign(context, { font: "11px system-ui, sans-serif", lineWidth: 1, strokeStyle: line, fillStyle: soft });
      this.bounds.forEach(([low, high], axis) => {
        const power = 10 ** Math.floor(Math.log10((high - low) / 5));
        let step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => (high - low) / size <= 8);
        if (axes[axis] === "label") step = Math.max(1, Math.round(step));
        const digits = Math.max(0, -Math.floor(Math.log10(step)));
        for (let i = Math.ceil(low / step); i * step <= high; i++) {
          const [x, y] = axis ? this.scale(this.bounds[0][0], i * step) : this.scale(i * step, this.bounds[1][0]);
          const to = axis ? [width - EDGE, y] : [x, EDGE];
          context.beginPath();
          context.moveTo(x, y);
          context.lineTo(...to);
          context.stroke();
          Object.assign(context, axis ? { textAlign: "right", textBaseline: "middle" } : { textAlign: "center", textBaseline: "top" });
          const text = (i * step).toFixed(digits).replace(/^-(0(\.0*)?)$/, "$1");
          context.fillText(text, ...(axis ? [x - 5, y] : [x, y + 4]));
        }
      });
      Object.assign(context, { textAlign: "right", textBaseline: "bottom" });
      context.fillText(axes[0], width - EDGE, height - 2);
      context.save();
      context.rotate(-Math.PI / 2);
      Object.assign(context, { textAlign: "right", textBaseline: "top" });
      context.fillText(axes[1], -EDGE, 2);
      context.restore();
    }

    // The background of the map: the axes, the points, and the means of the classes.
    paint(width, height, ratio) {
      const canvas = element("canvas", { width: Math.round(width * ratio), height: Math.round(height * ratio) });
      const context = canvas.getContext("2d");
      const { labels } = this.run.points;
      context.scale(ratio, ratio);
      this.paintAxes(context, width, height);
      context.globalAlpha = 0.75;
      labels.forEach((label, point) => {
        context.fillStyle = this.run.colours[label];
        context.beginPath();
        context.arc(...this.placed(point), width < 400 ? 2.2 : 2.8, 0, 2 * Math.PI);
        context.fill();
      });
      if (this.kinds.length < 2) return canvas;
      const style = getComputedStyle(this.map);
      Object.assign(context, { globalAlpha: 1, font: "bold 15px system-ui, sans-serif", textAlign: "center", textBaseline: "middle" });
      Object.assign(context, { lineWidth: 4, lineJoin: "round", strokeStyle: style.getPropertyValue("--card"), fillStyle: style.color });
      for (const kind of this.kinds) {
        const mine = labels.flatMap((label, point) => (label === kind ? [this.placed(point)] : []));
        const at = [0, 1].map((axis) => mine.reduce((sum, place) => sum + place[axis], 0) / mine.length);
        const [x, y] = at;
        const diamond = new Path2D(`M${x} ${y - 7}L${x + 7} ${y}L${x} ${y + 7}L${x - 7} ${y}Z`);
        context.stroke(diamond);
        context.fill(diamond);
        context.save();
        context.fillStyle = this.run.colours[kind];
        context.fill(new Path2D(`M${x} ${y - 4.5}L${x + 4.5} ${y}L${x} ${y + 4.5}L${x - 4.5} ${y}Z`));
        context.restore();
        context.strokeText(this.run.names[kind], x, y - 17);
        context.fillText(this.run.names[kind], x, y - 17);
      }
      return canvas;
    }
  }

  const runs = JSON.parse(document.getElementById("runs").textContent);
  const explorers = runs.map((run, i) => new Explorer(run, i, document.querySelector(`[data-explorer="${i}"]`)));
  // For tests and the browser's console. `decode`: the pixels of run `run` at latents `z` and class `label`, in the
  // order height, width, channel. `state`: the state of a run's explorer. `place`: the position of a test image on the
  // map, CSS pixels from its corner. `ready`: a promise for all pictures.
  window.jaxvae = {
    decode: (run, z, label = 0) => Array.from(explorers[run].decode(z, label)),
    state: (run) => {
      const { z, label, point, frame } = explorers[run];
      return { z: Array.from(z), label, point, frame };
    },
    place: (run, point) => explorers[run].placed(point),
    ready: Promise.all(explorers.map((explorer) => explorer.load())),
  };
})();
