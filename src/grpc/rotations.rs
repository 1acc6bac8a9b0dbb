//! `RotationService`: the job, by hand.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _};
use tokio_stream::wrappers::WatchStream;

use crate::authz::permit::{DescribeRotation, RunRotation};
use crate::authz::resource::WholeVault;
use crate::domain::rotation::{RunOptions, Trigger};
use crate::pipeline::{Call, Pipeline};
use crate::proto::rotation_service_server::RotationService as Api;
use crate::proto::{
    DescribeRotationRequest, DescribeRotationResponse, RunRotationRequest, RunRotationResponse,
};
use crate::rotation::RotationService;

use super::status::{Answer, Status, answer};
use super::{context, convert};

/// The service over gRPC.
#[derive(Debug)]
pub struct Rotations {
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) service: RotationService,
}

#[tonic::async_trait]
impl Api for Rotations {
    type RunRotationStream = Pin<Box<dyn Stream<Item = Result<RunRotationResponse, Status>> + Send>>;

    async fn run_rotation(
        &self,
        request: tonic::Request<RunRotationRequest>,
    ) -> Answer<Self::RunRotationStream> {
        let context = context::of(&self.pipeline, &request);
        let service = self.service.clone();
        let convert = || {
            let RunRotationRequest { force_new_versions, refresh_all } = request.into_inner();
            Ok(Call::<RunRotation, _>::new(WholeVault, RunOptions { force_new_versions, refresh_all }))
        };
        let started = self.pipeline.call(context, convert, |permit, options, _origin| async move {
            let reports = service.start(&permit, options, Trigger::Request).await?;
            let stream = WatchStream::new(reports)
                .map(|run| Ok(RunRotationResponse { run: Some(convert::run(&run)) }));
            Ok(Box::pin(stream) as Self::RunRotationStream)
        });
        answer(started.await)
    }

    async fn describe_rotation(
        &self,
        request: tonic::Request<DescribeRotationRequest>,
    ) -> Answer<DescribeRotationResponse> {
        let context = context::of(&self.pipeline, &request);
        let service = self.service.clone();
        let convert = || {
            let DescribeRotationRequest {} = request.into_inner();
            Ok(Call::<DescribeRotation, _>::new(WholeVault, ()))
        };
        let described = self.pipeline.call(context, convert, |permit, (), _origin| async move {
            let (run, next_run, last_tick) = service.describe(&permit).await?;
            Ok(DescribeRotationResponse {
                run: run.as_ref().map(convert::run),
                next_run_time: next_run.map(convert::time),
                last_tick_time: last_tick.map(convert::time),
            })
        });
        answer(described.await)
    }
}
